"""What an optimizer keeps for each weight is found out from the optimizer, and never guessed from a shape."""

import copy
import random

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import unusual_optimizers as unusual
from sparsify_examples import everything, loss_at, mlp, often, states_of, train
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch import describe_optimizer, sparsify
from sparsecore_torch._torch_internals.autograd import is_accumulating
from sparsecore_torch.sparse_training.optimizers.probe import probe, stand_in


def square(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def by_hand(model, optimizer, masks, steps):
    """Masks on weights and gradients, and none on state."""
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_at(model, step)
        loss.backward()
        for name, mask in masks.items():
            model.get_parameter(name).grad *= mask
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_parameter(name).mul_(mask)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("make", [unusual.Kronecker, unusual.Codes, unusual.Lars, unusual.Clipped])
def test_state_of_a_whole_parameter_trains_as_with_masks_by_hand(make):
    model, plain = square(), square()
    optimizer = make(model.parameters())
    training = sparsify(model, optimizer, strategy="static", sparsity=0.5)
    plain.load_state_dict(model.state_dict())
    expected = by_hand(plain, make(plain.parameters()), training.masks(), range(12))
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss = loss_at(model, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-4)


FRESH = {
    "rprop": (lambda p: torch.optim.Rprop(p, lr=0.02), {"prev": 0.0, "step_size": 0.02}),
    "adagrad": (lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.3), {"sum": 0.3}),
    "gains": (unusual.Gains, {"gain": 1.0, "slow": 0.0}),
    "adamax": (torch.optim.Adamax, {"exp_avg": 0.0, "exp_inf": 0.0}),
}


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("which", FRESH)
def test_grown_weights_start_with_the_optimizers_initial_state(which, storage):
    make, fresh = FRESH[which]
    model = mlp()
    optimizer = make(model.parameters())
    training = sparsify(model, optimizer, strategy=often("40%"), sparsity=0.6, storage=storage)
    train(model, optimizer, [0])
    before = training.topology.positions.numpy()
    train(model, optimizer, [1])
    after = training.topology.positions.numpy()
    grown = ~np.isin(after, before)
    assert training.updates == 1
    assert grown.any()
    names = training.topology.layout.names
    for key, expected in fresh.items():
        if storage == "compact":
            entries = states_of(optimizer, model.sparse_values)[key]
        else:
            masks = training.masks()
            entries = torch.cat([states_of(optimizer, model.get_parameter(n))[key][masks[n]] for n in names])
        assert (entries[grown] == torch.tensor(expected)).all()
        assert not (entries[~grown] == torch.tensor(expected)).all()


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_after_squash_inactive_weights_start_with_fresh_state(storage):
    model = mlp()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.02)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.6, storage=storage)
    train(model, optimizer, range(3))
    masks = training.masks()
    training.squash()
    for name, mask in masks.items():
        assert (states_of(optimizer, model.get_parameter(name))["step_size"][~mask] == torch.tensor(0.02)).all()


def test_quantized_state_of_inactive_weights_encodes_zero():
    model = square()
    optimizer = unusual.Codes(model.parameters())
    training = sparsify(model, optimizer, strategy=often("40%"), sparsity=0.5)
    train(model, optimizer, range(6))
    for name, mask in training.masks().items():
        assert (optimizer.state[model.get_parameter(name)]["codes"][~mask] == 128).all()


def test_state_of_a_tensor_class_of_its_own_is_read_or_refused_by_name():
    model = square()
    optimizer = unusual.QuantizedMomentum(model.parameters())
    training = sparsify(model, optimizer, strategy=often("40%"), sparsity=0.5)
    train(model, optimizer, range(6))
    for name, mask in training.masks().items():
        assert not optimizer.state[model.get_parameter(name)]["momentum"].dequantize()[~mask].any()
    model = square()
    optimizer = unusual.OpaqueMomentum(model.parameters())
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=r"OpaqueMomentum keeps .*0.weight.* class Opaque"):
        sparsify(model, optimizer, sparsity=0.5)
    assert everything(model, optimizer) == before


MUON = [torch.optim.Muon] if hasattr(torch.optim, "Muon") else []  # of torch 2.9


@pytest.mark.parametrize("make", [unusual.Lars, unusual.Clipped, unusual.Codes, unusual.Kronecker, *MUON])
def test_compact_storage_refuses_optimizers_that_do_not_work_elementwise(make):
    model = nn.Sequential(nn.Linear(6, 12, bias=False), nn.Linear(12, 10, bias=False), nn.Linear(10, 3, bias=False))
    optimizer = make(model.parameters())
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=rf"{make.__name__} .*storage='masked'"):
        sparsify(model, optimizer, sparsity=0.5, storage="compact")
    assert everything(model, optimizer) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Rprop])
def test_a_vanishing_warm_up_learning_rate_hides_no_state(make, dtype):
    model = mlp(dtype=dtype)
    parameter = model[2].weight
    options = {"step_sizes": (1e-12, 50)} if make is torch.optim.Rprop else {}
    optimizer = make(model.parameters(), lr=1e-9, **options)
    profile, usual = probe(optimizer, 0, parameter), probe(make(model.parameters(), lr=0.1, **options), 0, parameter)
    assert (profile.is_entrywise, profile.keeps_zero) == (True, usual.keeps_zero)
    assert profile.entries.keys() == usual.entries.keys()
    if make is torch.optim.Rprop:
        assert profile.entries["step_size"].fresh == pytest.approx(1e-9, rel=1e-2)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.6, storage="compact")
    assert training.sparsity == pytest.approx(0.6, abs=0.01)


def test_probing_an_optimizer_changes_neither_model_nor_optimizer():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    torch.optim.lr_scheduler.StepLR(optimizer, 3)  # puts a step on the instance
    train(model, optimizer, range(2))
    before = everything(model, optimizer), copy.deepcopy(optimizer.state_dict())
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    profile = probe(optimizer, 0, model[0].weight)
    assert profile.is_entrywise
    assert profile.keeps_zero
    assert everything(model, optimizer) == before[0]
    torch.testing.assert_close(optimizer.state_dict(), before[1], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == draws[1:]  # noqa: NPY002


@pytest.mark.parametrize("shape", [(512, 512, 3, 3), (4096, 11008), (2, 3), (7, 7), (1, 5), (300, 300), (5000,)])
def test_a_probe_tensor_is_small_and_equal_sides_stay_equal(shape):
    standing = stand_in(shape)
    assert len(standing) == len(shape)
    assert 256 <= np.prod(standing) <= 16_384
    for one, mine in zip(shape, standing, strict=True):
        assert (one == 1) == (mine == 1)
        for other, its in zip(shape, standing, strict=True):
            assert (one == other) == (mine == its)


def test_state_that_is_created_in_later_steps_is_classified():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.6)
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["amsgrad"] = True
    for state in optimizer.state.values():
        state["max_exp_avg_sq"] = torch.ones_like(state["exp_avg_sq"])
    train(model, optimizer, range(3, 6))
    for name, mask in training.masks().items():
        state = states_of(optimizer, model.get_parameter(name))
        assert set(state) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
        assert not any(entries[~mask].any() for entries in state.values())


def test_an_optimizer_that_cannot_be_probed_is_refused_until_described():
    model = mlp()
    for parameter in model.parameters():
        parameter.tag = True
    optimizer = unusual.Picky(model.parameters())
    before = everything(model, optimizer)
    with pytest.raises(InputError, match=r"Picky .*without a tag.*describe_optimizer"):
        sparsify(model, optimizer)
    assert everything(model, optimizer) == before
    describe_optimizer(unusual.Picky, state={"trace": lambda group: group["lr"] * 20}, entry_by_entry=True)
    training = sparsify(model, optimizer, strategy=often("40%"), sparsity=0.6)
    train(model, optimizer, [0])
    masks = training.masks()
    train(model, optimizer, [1])
    for name, mask in training.masks().items():
        trace = optimizer.state[model.get_parameter(name)]["trace"]
        assert (trace[mask & ~masks[name]] == 1.0).all()
        assert not trace[~mask].any()


@pytest.mark.parametrize("rate", [None, torch.tensor(0.05), 0.05])
def test_a_learning_rate_is_only_required_by_strategies_that_use_it(rate):
    model = mlp()
    optimizer = unusual.OwnRate(model.parameters(), lr=rate)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.6)
    train(model, optimizer, range(4))
    assert training.updates == 2
    training.squash()
    if rate is None:
        with pytest.raises(InputError, match=r"'deepr' needs the learning rate"):
            sparsify(model, optimizer, strategy="deepr", sparsity=0.6)
    else:
        train(model, optimizer, range(sparsify(model, optimizer, strategy="deepr", sparsity=0.6).step, 2))


def noise_by_version(parameter):
    parameter.grad.add_(1.0)


def noise_past_versions(parameter):
    parameter.grad.data.add_(1.0)


def another_gradient(parameter):
    parameter.grad = torch.ones_like(parameter)


def an_expanded_gradient(parameter):
    parameter.grad = torch.ones(()).expand(parameter.shape)


def one_entry(parameter):
    parameter.grad[-1, -1] = 1.0


def momentum_in_place(parameter, optimizer=None):
    optimizer.state[parameter]["exp_avg"].add_(1.0)


def another_momentum(parameter, optimizer=None):
    optimizer.state[parameter]["exp_avg"] = torch.ones_like(parameter)


@pytest.mark.parametrize(
    "way", [noise_by_version, noise_past_versions, another_gradient, an_expanded_gradient, one_entry]
)
@pytest.mark.parametrize("fused", [False, True])
def test_whatever_happens_to_gradients_inactive_weights_and_state_are_zero_after_each_step(way, fused):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.7)
    for step in range(6):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        if step >= 3:
            way(model[2].weight)
        optimizer.step()
        for name, mask in training.masks().items():
            parameter = model.get_parameter(name)
            assert not parameter[~mask].any()
            assert not any(entries[~mask].any() for entries in states_of(optimizer, parameter).values())


@pytest.mark.parametrize("way", [momentum_in_place, another_momentum])
def test_whatever_happens_to_state_inactive_weights_and_state_are_zero_after_each_step(way):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    training = sparsify(model, optimizer, strategy="static", sparsity=0.7)
    train(model, optimizer, range(4))
    way(model[2].weight, optimizer)
    train(model, optimizer, [4])
    for name, mask in training.masks().items():
        parameter = model.get_parameter(name)
        assert not parameter[~mask].any()
        assert not any(entries[~mask].any() for entries in states_of(optimizer, parameter).values())


def test_gradients_returned_by_autograd_grad_are_masked_too():
    model = mlp()
    training = sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), strategy="static", sparsity=0.7)
    (gradient,) = torch.autograd.grad(loss_at(model, 0), [model[2].weight])
    mask = training.masks()["2.weight"]
    assert gradient[mask].any()
    assert not gradient[~mask].any()


def test_accumulated_gradients_are_distinguished_from_returned_ones():
    weight = nn.Parameter(torch.ones(3))
    node = torch.autograd.graph.get_gradient_edge(weight).node
    accumulating = []
    weight.register_hook(lambda _: accumulating.append(is_accumulating(node)))
    weight.sum().backward()
    torch.autograd.grad(weight.sum(), [weight])
    weight.sum().backward(inputs=[weight])
    assert accumulating == [True, False, True]
    assert not is_accumulating(node)
