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
    train,
)
from torch import nn
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
