"""Tensors that are frozen during training keep their weights, positions and values until they train again."""

import numpy as np
import pytest
from engine_examples import ARRAYS, engine
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.engine.schedules import Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.granet import GradualRegeneration
from sparsecore_strategies.set import SparseEvolution

torch = pytest.importorskip("torch")

from sparsify_examples import GrowByGradient, mlp, often, sgd, train
from torch import nn

from sparsecore_torch import sparsify

STRATEGIES = {
    "dpr": lambda: DynamicReallocation(target="40%", initial_threshold=0.3, schedule=Every(steps=1)),
    "set": lambda: SparseEvolution(schedule=Every(steps=1)),
    "deepr": lambda: DeepRewiring(temperature=1e-2, l1=0.1),
}


LAYOUT = Layout.of({"one": (10, 10), "two": (20, 5), "three": (6, 6), "four": (8, 4, 3, 3)})


@st.composite
def starts(draw, strategy):
    """An engine, a state with room for all that may grow, values, and the frozen tensors."""
    algorithm = engine(LAYOUT, [strategy], seed=draw(st.integers(0, 99)))
    state = algorithm.start(draw(st.floats(0.6, 0.9)))
    frozen = draw(st.lists(st.sampled_from(LAYOUT.names), unique=True, max_size=3))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=state.topology.size)
    return algorithm, state, values, frozen


@settings(max_examples=30)
@given(data=st.data(), strategy=st.sampled_from(list(STRATEGIES)))
def test_frozen_tensors_do_not_change_and_the_number_of_weights_stays(data, strategy):
    algorithm, state, values, frozen = data.draw(starts(STRATEGIES[strategy]()))
    advance = algorithm.advance(state, values, 0.1, frozen=frozen)
    before, after = state.topology, advance.state.topology
    assert after.size == before.size
    assert frozen or not np.array_equal(after.positions, before.positions)
    for name in frozen:
        assert np.array_equal(after.local(name), before.local(name))
        assert np.array_equal(advance.values[after.slots(name)], values[before.slots(name)])


@settings(max_examples=30)
@given(data=st.data())
def test_growth_is_allocated_among_trainable_tensors_only(data):
    algorithm, state, values, frozen = data.draw(starts(STRATEGIES["dpr"]()))
    _, reallocation = algorithm.update(state, values, frozen=frozen)
    trained = np.array([name not in frozen for name in LAYOUT.names])
    assert not reallocation.grown[~trained].any()
    assert not reallocation.pruned[~trained].any()
    # by hand, as all have room: quotas of the survivors of the others, rounded up or down
    survivors = np.where(trained, state.topology.counts - reallocation.pruned, 0)
    quotas = survivors * reallocation.pruned.sum() / survivors.sum()
    assert (abs(reallocation.grown - quotas) < 1).all()


def test_nothing_changes_when_all_tensors_are_frozen():
    algorithm = engine(LAYOUT, [STRATEGIES["set"]()])
    state = algorithm.start(0.8)
    values = np.random.default_rng(0).normal(size=state.topology.size)
    advance = algorithm.advance(state, values, 0.1, frozen=LAYOUT.names)
    assert np.array_equal(advance.state.topology.positions, state.topology.positions)
    assert np.array_equal(advance.values, values)


def test_an_unknown_frozen_tensor_is_an_error():
    algorithm = engine(LAYOUT, [])
    state = algorithm.start(0.5)
    with pytest.raises(InputError, match=r"no sparse tensor named 'fifth'; known: .*three"):
        algorithm.update(state, ARRAYS.from_numpy(np.ones(state.topology.size)), frozen=["fifth"])


NAMED = {
    "dpr": {"strategy": often("30%", every=1)},
    "deepr": {"strategy": DeepRewiring(temperature=1e-2, l1=0.1)},
    "granet": {"strategy": GradualRegeneration(schedule=Every(steps=100)), "total_steps": 2000},
    "by gradient": {"strategy": [often("30%", every=1), GrowByGradient()]},
    **{
        name: {"strategy": name, "total_steps": 2000, "steps_per_epoch": 20}
        for name in ("set", "rigl", "snfs", "gmp", "srigl")
    },
}


@pytest.mark.filterwarnings("ignore::sparsecore.errors.SparsityWarning")  # srigl starts at what it can
@pytest.mark.parametrize("case", NAMED)
def test_a_layer_that_is_frozen_after_sparsify_is_left_alone_until_it_is_trained_again(case):
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, sparsity=0.5, include="*weight", **NAMED[case])
    every = 100 if "total_steps" in NAMED[case] else 1
    train(model, optimizer, range(every))
    model[2].requires_grad_(False)
    mask, weight = training.masks()["2.weight"], model[2].weight.detach().clone()
    others, updates = training.masks(), training.updates
    train(model, optimizer, range(every, every + max(4, 2 * every)))
    assert training.updates > updates
    assert torch.equal(training.masks()["2.weight"], mask)
    assert torch.equal(model[2].weight, weight)
    assert any(not torch.equal(others[name], mask) for name, mask in training.masks().items())
    model[2].requires_grad_(True)
    train(model, optimizer, range(200, 200 + max(4, every)))
    assert not torch.equal(training.masks()["2.weight"], mask)


def test_freezing_one_layer_of_compact_storage_is_refused():
    model = mlp()
    optimizer = sgd(model)
    sparsify(model, optimizer, strategy="static", sparsity=0.5, storage="compact")
    with pytest.raises(InputError, match=r"weights of this Linear are part of .*sparse_values.*storage='masked'"):
        model[0].requires_grad_(False)
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match=r"2.weight has been frozen since sparsify.*storage='masked'"):
        train(model, optimizer, [0])


def test_all_compact_weights_can_be_frozen_together():
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often("30%", every=1), sparsity=0.5, storage="compact")
    train(model, optimizer, range(2))
    positions, values = training.topology.positions, training.values().clone()
    model.sparse_values.requires_grad_(False)
    train(model, optimizer, range(2, 5))
    assert torch.equal(training.topology.positions, positions)
    assert torch.equal(training.values(), values)
    assert training.step == 5
