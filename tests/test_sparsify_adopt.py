"""Adopting loaded weights with their topology: which positions, how many, and what is carried along."""

import copy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from restored_examples import NAMES, STRATEGIES, nonzero, restored, started, topology_of
from sparsify_examples import (
    assert_inactive_is_zero,
    loss_at,
    mlp,
    often,
    sgd,
    states_of,
    train,
)
from torch import nn

from sparsecore.engine.schedules import Every
from sparsecore.errors import InputError
from sparsecore.strategy import hookimpl
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.srigl import StructuredRigL
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kernels", ["dense", "sparse"])
def test_adopted_weights_are_the_loaded_ones_and_train_on(strategy, kernels):
    if kernels == "sparse":
        pytest.importorskip("sparsecore_cpu._kernels")
    model, optimizer, training, best, loss, _ = restored(strategy=strategy, kernels=kernels)
    size = training.topology.size
    training.adopt()
    assert loss_at(model, 0).item() == pytest.approx(loss, rel=1e-5)
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert training.topology.size == size
    masks, matrices, plain = training.masks(), export.to_csr(training), export.squashed_copy(training).state_dict()
    values = training.values()
    for name, weights in nonzero(best).items():
        assert not (weights & ~masks[name]).any()
        assert torch.equal(plain[name], best[name])
        assert torch.equal(matrices[name].to_dense(), best[name])
        assert torch.equal(values[training.topology.slots(name)], best[name][masks[name]])
    assert_inactive_is_zero(model, optimizer, training)
    train(model, optimizer, range(11, 16))
    assert training.topology.size == size
    assert_inactive_is_zero(model, optimizer, training)
    training.squash()
    assert sum(int(model.state_dict()[name].count_nonzero()) for name in NAMES) <= size


def test_active_zero_weights_fill_up_missing_positions():
    _, _, training, best, _, topology = restored(strategy="set")
    before = training.masks()
    counts = training.topology.counts.tolist()
    training.adopt()
    assert training.topology.counts.tolist() == counts == topology.counts.tolist()
    for name, weights in nonzero(best).items():
        added = training.masks()[name] & ~weights
        assert not (added & ~before[name]).any()  # they have been active up to now


def test_optimizer_state_is_carried_by_position():
    model, optimizer, training, *_ = restored()
    before = {name: states_of(optimizer, p)["momentum_buffer"].clone() for name, p in model.named_parameters()}
    training.adopt()
    for name in NAMES:
        now = states_of(optimizer, model.get_parameter(name))["momentum_buffer"]
        assert torch.equal(now, before[name] * training.masks()[name])


def test_too_many_nonzero_weights_are_refused_with_both_numbers():
    model, optimizer, training = started()
    train(model, optimizer, range(3))
    topology = training.topology
    nn.init.normal_(model[2].weight)
    many = int(sum(model.get_parameter(name).count_nonzero() for name in NAMES))
    with pytest.raises(InputError, match=f"{many} nonzero weights.* {topology.size} ") as refused:
        training.adopt()
    assert "mask_" in str(refused.value)
    assert training.topology is topology
    training.mask_(model)
    train(model, optimizer, range(3))
    assert_inactive_is_zero(model, optimizer, training)


def test_a_strategy_that_remembers_each_weight_needs_its_state_dict():
    model, optimizer, training = started(strategy=DeepRewiring(l1=1e-2, temperature=1e-3))
    train(model, optimizer, range(5))
    saved = copy.deepcopy([one.state_dict() for one in (model, training)])
    train(model, optimizer, range(5, 15))
    assert training.topology.sha256() != topology_of(saved[1], training).sha256()
    model.load_state_dict(saved[0])
    with pytest.raises(InputError, match="DeepRewiring remembers something of each weight"):
        training.adopt()
    training.load_state_dict(saved[1])
    train(model, optimizer, range(5))


class EverySecondIsSilent:
    @hookimpl
    def forward_view(self, topology):
        return topology.arrays.from_numpy(np.arange(topology.size) % 2 == 0)


def test_nonzero_weights_that_have_moved_are_refused_where_others_are_silent():
    model, optimizer, training = started(strategy=EverySecondIsSilent())
    train(model, optimizer, range(2))
    values = training.values()
    training.adopt()  # nothing has moved
    assert torch.equal(training.values(), values)
    with torch.no_grad():
        model[2].weight[tuple(model[2].weight.nonzero()[0])] = 0.0
        model[2].weight[tuple((~training.masks()["2.weight"]).nonzero()[0])] = 1.0
    with pytest.raises(InputError, match="which weights the model computes with"):
        training.adopt()


@pytest.mark.filterwarnings("ignore::sparsecore.errors.SparsityWarning")
@pytest.mark.parametrize("group", [None, 3])
def test_adopted_groups_keep_their_number_of_weights(group):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    optimizer = sgd(model)
    strategy = StructuredRigL(group=group, schedule=Every(steps=2), drop_fraction=0.5)
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.6, total_steps=100, seed=1)
    train(model, optimizer, range(4))
    best = copy.deepcopy(model.state_dict())
    with torch.no_grad():  # some of the best weights happen to be zero
        active = best["2.weight"].nonzero()
        best["2.weight"][tuple(active[::4].T)] = 0.0

    def numbers():
        return {name: mask.reshape(-1, group or mask.shape[1]).sum(1) for name, mask in training.masks().items()}

    expected = numbers()
    train(model, optimizer, range(4, 10))
    model.load_state_dict(best)
    training.adopt()
    for name, counts in numbers().items():
        assert torch.equal(counts, expected[name])


def test_units_are_adopted_whole():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.5, units="2x2", seed=3)
    train(model, optimizer, range(4))
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(4, 10))
    model.load_state_dict(best)
    with torch.no_grad():
        row, column = model[2].weight.nonzero()[0]
        model[2].weight[row, column] = 0.0  # a unit is there as long as one of its weights is
    training.adopt()
    mask = training.masks()["2.weight"].reshape(5, 2, 6, 2).transpose(1, 2).reshape(-1, 4).sum(1)
    assert set(mask.tolist()) == {0, 4}
    assert training.masks()["2.weight"][row, column]
    train(model, optimizer, range(4, 8))


def test_a_checkpoint_without_a_training_state_can_be_adopted_by_a_new_training():
    model, optimizer, training = started()
    train(model, optimizer, range(6))
    plain = export.squashed_copy(training).state_dict()
    fresh, other, again = started()
    fresh.load_state_dict(plain)
    again.adopt()
    train(fresh, other, [6])
    assert again.topology.size == training.topology.size


def test_shares_are_never_more_than_wanted():
    from sparsecore_torch.sparse_training.adoption import _shares

    generator = np.random.default_rng(0)
    for _ in range(50):
        wanted = generator.integers(-3, 6, 7)
        total = int(generator.integers(0, np.maximum(wanted, 0).sum() + 1))
        shares = _shares(wanted, total, generator)
        assert shares.sum() == total
        assert (shares <= np.maximum(wanted, 0)).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 1.0), rows=st.integers(1, 6), columns=st.integers(1, 7))
def test_adopted_weights_are_as_many_as_before_and_none_is_left_out(seed, share, rows, columns):
    from sparsecore.engine.engine import Engine
    from sparsecore.engine.topology import Layout
    from sparsecore_strategies.static import Static
    from sparsecore_torch.arrays import TorchArrays
    from sparsecore_torch.sparse_training.adoption import adopted

    layout = Layout.of({"a": (rows, columns), "b": (3, 4), "c": (2, 2, 3)})
    engine = Engine(layout, [Static()], arrays=TorchArrays(torch.device("cpu")), seed=seed)
    state = engine.start(0.5)
    generator = np.random.default_rng(seed)
    nonzero = np.sort(generator.permutation(layout.size)[: int(share * state.topology.size)])
    after = adopted(engine, state, torch.from_numpy(nonzero)).topology
    positions, before = set(after.positions.tolist()), set(state.topology.positions.tolist())
    assert after.size == len(positions) == len(before)
    assert set(nonzero.tolist()) <= positions <= before | set(nonzero.tolist())
    loaded = [int(((nonzero >= first) & (nonzero < last)).sum()) for first, last in pairwise(layout.offsets)]
    if all(mine <= whole for mine, whole in zip(loaded, state.topology.counts, strict=True)):
        assert after.counts.tolist() == state.topology.counts.tolist()
