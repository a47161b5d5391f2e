"""Usual training loops work as before: compilation, mixed precision, accumulation, clipping ..."""

import copy
import io
import math

import attrs
import pytest

torch = pytest.importorskip("torch")

import numpy as np
from sparsify_examples import (
    GrowByGradient,
    assert_inactive_is_zero,
    batch,
    convnet,
    loss_at,
    mlp,
    often,
    sgd,
    sparse_parameters,
    states_of,
    train,
)
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy

from sparsecore.engine.hooks import hookimpl
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask


def weights_after(model, steps=8, **options):
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.75, **options)
    train(model, optimizer, range(steps))
    assert training.updates == steps // 2
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("first", ["compile", "sparsify"])
def test_a_compiled_model_is_compiled_once_and_trains_the_same(backend, first):
    torch._dynamo.reset()
    expected = weights_after(mlp())
    counter = CompileCounterWithBackend(backend)
    model = mlp()
    if first == "compile":
        compiled = torch.compile(model, backend=counter)
        optimizer = sgd(model)
        training = sparsify(compiled, optimizer, strategy=often(), sparsity=0.75)
    else:
        optimizer = sgd(model)
        training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
        compiled = torch.compile(model, backend=counter)
    train(compiled, optimizer, [0])
    assert counter.frame_count == 1
    train(compiled, optimizer, range(1, 8))
    assert training.updates == 4
    assert counter.frame_count == 1
    assert training.topology.layout.names == ("0.weight", "2.weight")
    for mine, its in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, its)


def test_a_model_that_ran_compiled_before_is_not_compiled_again():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = mlp()
    compiled = torch.compile(model, backend=counter)
    optimizer = sgd(model)
    train(compiled, optimizer, range(2))
    training = sparsify(compiled, optimizer, strategy=often(), sparsity=0.75)
    train(compiled, optimizer, range(4))
    assert training.updates == 2
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, as it traces optimizers
def test_a_compiled_optimizer_step_is_compiled_once():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    expected = weights_after(mlp())
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    step = torch.compile(lambda: optimizer.step(), backend=counter)  # noqa: PLW0108
    frames = []
    for number in range(8):
        optimizer.zero_grad()
        loss_at(model, number).backward()
        step()
        frames.append(counter.frame_count)
    assert training.updates == 4
    assert frames[2:] == frames[2:3] * 6  # the first steps make the momenta
    for mine, its in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_does_not_count(fused):
    model = mlp()
    optimizer = sgd(model, foreach=not fused, fused=fused)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def step(number, factor=1.0):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_at(model, number)
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    step(0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    masks = training.masks()
    step(1, math.inf)
    assert scaler.get_scale() == 2.0**9
    assert (training.step, training.updates) == (1, 0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(mask, masks[name]) for name, mask in training.masks().items())
    step(1)
    assert (training.step, training.updates) == (2, 1)
    assert_inactive_is_zero(model, optimizer, training)


@pytest.mark.parametrize("fused", [False, True])
def test_training_with_a_loss_scaler_equals_plain_training(fused):
    expected = weights_after(mlp())
    model = mlp()
    optimizer = sgd(model, foreach=not fused, fused=fused)
    sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    scaler = torch.amp.GradScaler("cpu")
    for number in range(8):
        optimizer.zero_grad()
        scaler.scale(loss_at(model, number)).backward()
        scaler.step(optimizer)
        scaler.update()
    for mine, its in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, its)


def test_accumulated_batches_are_one_step():
    whole, parts = mlp(), mlp()
    optimizers = [sgd(model) for model in (whole, parts)]
    trainings = [
        sparsify(model, optimizer, strategy=often(), sparsity=0.75)
        for model, optimizer in zip((whole, parts), optimizers, strict=True)
    ]
    for number in range(6):
        images, labels = batch(number)
        for optimizer in optimizers:
            optimizer.zero_grad()
        cross_entropy(whole(images), labels).backward()
        for half in (slice(0, 4), slice(4, 8)):
            (cross_entropy(parts(images[half]), labels[half]) / 2).backward()
            for name, mask in trainings[1].masks().items():
                assert not dict(parts.named_parameters())[name].grad[~mask].any()
        for optimizer in optimizers:
            optimizer.step()
    assert trainings[1].step == 6
    assert torch.equal(trainings[0].topology.positions, trainings[1].topology.positions)
    for mine, its in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


def test_gradients_that_are_never_zeroed_move_with_the_weights():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(every=1), sparsity=0.75)
    for number in range(4):
        loss_at(model, number).backward()
        optimizer.step()
        for name, mask in training.masks().items():
            assert not dict(model.named_parameters())[name].grad[~mask].any()
    assert training.updates == 4


def test_clipping_sees_only_active_weights():
    model = mlp()
    training = sparsify(model, sgd(model), sparsity=0.75)
    plain = copy.deepcopy(model)
    for net in (model, plain):
        loss_at(net, 0).backward()
    masks = training.masks()
    squares = [
        (parameter.grad[masks[name]] if name in masks else parameter.grad).square().sum()
        for name, parameter in plain.named_parameters()
    ]
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    torch.testing.assert_close(norm, torch.stack(squares).sum().sqrt())


def test_a_step_with_a_closure_counts_as_one_step():
    expected = weights_after(mlp())
    model = mlp()
    optimizer = sgd(model)
    sparsify(model, optimizer, strategy=often(), sparsity=0.75)
    losses = []
    for number in range(8):

        def closure(number=number):
            optimizer.zero_grad()
            loss = loss_at(model, number)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure))
    assert all(loss > 0 for loss in losses)
    assert all(torch.equal(mine, its) for mine, its in zip(model.parameters(), expected, strict=True))


class Listener:
    """Hears the learning rate of each step."""

    def __init__(self):
        self.rates = []

    @hookimpl
    def perturb(self, values, learning_rate):
        self.rates.append(learning_rate)
        return values


def test_strategies_receive_the_scheduled_learning_rate_of_the_sparse_tensors_group():
    model = mlp()
    groups = [
        {"params": [model[4].weight, model[4].bias], "lr": 5.0},
        {"params": [p for i in (0, 2) for p in model[i].parameters()], "lr": 0.5},
    ]
    optimizer = torch.optim.SGD(groups)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    listener = Listener()
    training = sparsify(model, optimizer, strategy=["static", listener], sparsity=0.75)
    for number in range(4):
        train(model, optimizer, [number])
        schedule.step()
    assert listener.rates == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert_inactive_is_zero(model, optimizer, training)


def test_channels_last_trains_the_same_and_stays():
    def weights(memory_format):
        model = convnet().to(memory_format=memory_format)
        optimizer = sgd(model)
        training = sparsify(model, optimizer, strategy=often(), sparsity=0.5)
        for number in range(6):
            optimizer.zero_grad()
            images, labels = batch(number, (2, 5, 5))
            cross_entropy(model(images.contiguous(memory_format=memory_format)), labels).backward()
            optimizer.step()
            assert_inactive_is_zero(model, optimizer, training)
        assert training.updates == 3
        assert model[3].weight.is_contiguous(memory_format=memory_format)
        return training.topology.positions, [parameter.detach() for parameter in model.parameters()]

    positions, expected = weights(torch.contiguous_format)
    same_positions, got = weights(torch.channels_last)
    assert torch.equal(positions, same_positions)
    for mine, its in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("strategy", ["static", "gradient growth"])
def test_nonfinite_gradients_at_inactive_positions_are_ignored(strange, strategy):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    where = {}
    # registered first, so that it comes with the gradient
    model[0].weight.register_hook(lambda gradient: torch.where(where["inactive"], strange, gradient))
    stack = [often(every=1), GrowByGradient()] if strategy == "gradient growth" else strategy
    training = sparsify(model, optimizer, strategy=stack, sparsity=0.75)
    for number in range(4):
        where["inactive"] = ~training.masks()["0.weight"]
        optimizer.zero_grad()
        loss_at(model, number).backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite()
        optimizer.step()
        assert_inactive_is_zero(model, optimizer, training)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert all(entry.isfinite().all() for entry in states_of(optimizer, model[0].weight).values())


def test_nonfinite_entries_of_a_gradient_assigned_by_hand_are_ignored_at_inactive_positions():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.75)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    for name, mask in training.masks().items():
        dict(model.named_parameters())[name].grad[mask] = 0.0
    optimizer.step()
    assert_inactive_is_zero(model, optimizer, training)
    assert model[0].weight.isfinite().all()


@pytest.mark.parametrize("set_to_none", [True, False])
def test_parameters_without_a_gradient_are_not_stepped(set_to_none):
    model = nn.ModuleDict({"used": nn.Linear(6, 8), "idle": nn.Linear(6, 8), "end": nn.Linear(8, 3)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    training = sparsify(model, optimizer, strategy=[often(every=1), GrowByGradient()], sparsity=0.75)
    for number in range(4):
        model.zero_grad(set_to_none=set_to_none)
        images, labels = batch(number)
        cross_entropy(model["end"](model["used"](images)), labels).backward()
        optimizer.step()
        assert_inactive_is_zero(model, optimizer, training)
    assert training.updates == 4


def test_second_derivatives_can_be_computed():
    model = mlp(dtype=torch.float64)
    optimizer = sgd(model)
    training = sparsify(model, optimizer, sparsity=0.75)
    gradients = torch.autograd.grad(
        cross_entropy(model(batch(0)[0].double()), batch(0)[1]), list(model.parameters()), create_graph=True
    )
    sum(gradient.square().sum() for gradient in gradients).backward()
    optimizer.step()
    assert_inactive_is_zero(model, optimizer, training)
    assert not gradients[0][~training.masks()["0.weight"]].any()


@pytest.mark.filterwarnings("ignore::sparsecore.errors.LostWeightsWarning")  # positions are drawn anew on purpose
def test_copies_and_saved_models_are_plain_models():
    model = mlp()
    optimizer = sgd(model)
    sparsify(model, optimizer, sparsity=0.75)
    train(model, optimizer, [0])
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for plain in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
        train(plain, sgd(plain), [1])
        assert plain[0].weight.count_nonzero() > model[0].weight.count_nonzero()
        assert sparsify(plain, sgd(plain), sparsity=0.5).sparsity == 0.5


def dense_gradients(model, number):
    """Those of a dense model with the same weights."""
    plain = copy.deepcopy(model)
    plain.zero_grad()
    loss_at(plain, number).backward()
    return {name: parameter.grad.flatten().numpy() for name, parameter in plain.named_parameters()}


@pytest.mark.parametrize("way", ["plain", "closure", "scaled", "scaled, fused", "accumulated"])
def test_strategies_that_grow_by_gradient_see_all_of_it(way):
    model, strategy = mlp(), GrowByGradient()
    optimizer = sgd(model, nesterov=True, weight_decay=0.0, fused=way == "scaled, fused")
    training = sparsify(model, optimizer, strategy=[often(every=3), strategy], sparsity=0.75)
    scaler = torch.amp.GradScaler("cpu", enabled="scaled" in way)

    def backward(number):
        optimizer.zero_grad()
        loss = loss_at(model, number)
        if way == "accumulated":
            (loss_at(model, number) / 2).backward()
            loss = loss / 2
        scaler.scale(loss).backward()
        return loss

    for number in range(6):
        expected = dense_gradients(model, number)
        before = training.topology
        if way == "closure":
            optimizer.step(lambda number=number: backward(number))
        else:
            backward(number)
            scaler.step(optimizer)
            scaler.update()
        assert_inactive_is_zero(model, optimizer, training)
        for name, parameter in sparse_parameters(model, training).items():
            assert parameter.grad is None or not parameter.grad[~training.masks()[name]].any()
        if (number + 1) % 3 == 0:
            for name in before.layout.names:
                np.testing.assert_allclose(strategy.seen[-1][name], expected[name], rtol=1e-4, atol=1e-6)
    assert training.updates == len(strategy.seen) == 2


def test_gradient_growth_takes_the_steepest_free_positions():
    model, strategy = mlp(), GrowByGradient()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=[often("30%", every=2), strategy], sparsity=0.75)
    train(model, optimizer, [0])
    masks, expected = training.masks(), dense_gradients(model, 1)
    train(model, optimizer, [1])
    for name, mask in training.masks().items():
        grown, free = (mask & ~masks[name]).flatten().numpy(), ~masks[name].flatten().numpy()
        assert grown.any()
        steepness = np.abs(expected[name])
        assert steepness[grown].min() >= steepness[free & ~grown].max() - 1e-7


@attrs.frozen(eq=False)
class InPlaceOfSteps:
    """Every third step is left out for an update, as RigL has it."""

    @hookimpl
    def replaces_step(self):
        return True


@pytest.mark.parametrize("way", ["plain", "closure", "scaled, fused", "adam, fused", "adam, foreach"])
def test_an_update_that_replaces_a_step_skips_the_optimizer(way):
    model, gradients = mlp(), GrowByGradient()
    options = {"fused": "fused" in way, "foreach": "foreach" in way}
    make = torch.optim.AdamW if "adam" in way else torch.optim.SGD
    optimizer = make(model.parameters(), lr=0.05, weight_decay=0.1, **options)
    training = sparsify(model, optimizer, strategy=[often(every=3), gradients, InPlaceOfSteps()], sparsity=0.75)
    scaler = torch.amp.GradScaler("cpu", enabled="scaled" in way)

    def backward(number):
        optimizer.zero_grad()
        loss = loss_at(model, number)
        scaler.scale(loss).backward()
        return loss

    for number in range(1, 7):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        momenta = [{k: v.clone() for k, v in states_of(optimizer, p).items()} for p in model.parameters()]
        masks, expected = training.masks(), dense_gradients(model, number)
        if way == "closure":
            assert optimizer.step(lambda number=number: backward(number)) > 0
        else:
            backward(number)
            scaler.step(optimizer)
            scaler.update()
        stays = {name: mask & masks[name] for name, mask in training.masks().items()}
        same = all(
            torch.equal(old[where], new[where]) and all(torch.equal(was[key][where], now[key][where]) for key in was)
            for (name, new), old, was, now in (
                (item, before[i], momenta[i], states_of(optimizer, item[1]))
                for i, item in enumerate(model.named_parameters())
            )
            for where in [stays.get(name, ...)]
        )
        assert same == (number % 3 == 0)
        assert all(parameter.grad is not None for parameter in model.parameters())
    for name in gradients.seen[-1]:
        np.testing.assert_allclose(gradients.seen[-1][name], expected[name], rtol=1e-4, atol=1e-6)
    assert (training.step, training.updates) == (6, 2)
    training.squash()
    assert not any(value for key, value in vars(optimizer).items() if "hook" in key)


@attrs.frozen(eq=False)
class Steps:
    steps: int = 0


@attrs.frozen(eq=False)
class SeesAll:
    """Counts the steps whose gradients it has seen, dense."""

    @hookimpl
    def initial_strategy_state(self):
        return Steps()

    @hookimpl
    def observe(self, gradient, topology, strategy_state):
        gradients = [gradient(name) for name in topology.layout.names]
        assert [len(one) for one in gradients] == list(topology.layout.sizes)
        assert sum(one.count_nonzero() for one in gradients) > topology.size
        return Steps(strategy_state.steps + 1)


def test_observers_see_the_dense_gradients_of_every_step():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=[often(every=3), SeesAll()], sparsity=0.9)
    train(model, optimizer, range(5))
    assert training.state_dict()["memories"]["SeesAll"]["scalars"] == {"steps": 5}


@attrs.frozen(eq=False)
class Shrinking:
    """A tenth fewer weights an update."""

    @hookimpl
    def target_size(self, topology):
        return topology.size * 9 // 10


def test_the_number_of_weights_follows_what_a_strategy_declares():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    options = {"strategy": [often("40%", every=2), Shrinking()], "sparsity": 0.5}
    training = sparsify(model, optimizer, **options)
    sizes = []
    for number in range(6):
        train(model, optimizer, [number])
        sizes.append(training.topology.size)
        assert_inactive_is_zero(model, optimizer, training)
    assert sizes == [96, 86, 86, 77, 77, 69]
    state = training.state_dict()
    training.squash()
    again = sparsify(model, optimizer, **options)
    again.load_state_dict(state)
    assert again.topology.size == len(again.values()) == 69


def test_a_model_moved_after_sparsify_is_refused():
    mask = BitMask(torch.zeros(2, 3, dtype=torch.int8), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="has moved to meta since sparsify was called"):
        mask.fill(torch.zeros(2, 3, device="meta"))


def test_schedules_in_epochs_count_epochs():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="set", sparsity=0.75, steps_per_epoch=3)
    train(model, optimizer, range(7))
    assert training.updates == 2


def test_numbers_of_steps_may_be_numpy_integers():
    model = mlp()
    training = sparsify(model, sgd(model), total_steps=np.int64(20), steps_per_epoch=np.int64(5))
    assert training.step == 0
