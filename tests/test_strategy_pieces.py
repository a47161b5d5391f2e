"""Pieces that decide one step and leave the others to the strategies below; and all strategies on every backend."""

import numpy as np
import pytest
from dense_oracles import drawn, floored, gathered, largest, masks_of, same, without_smallest
from engine_examples import TWO_TENSORS, engine, topologies, values_of
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.distributions import erdos_renyi_kernel
from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.host.arrays import NumpyArrays
from sparsecore.plugins.discovery import load
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.erk_start import ErkStart
from sparsecore_strategies.gradient_growth import GradientGrowth
from sparsecore_strategies.magnitude_drop import MagnitudeDrop
from sparsecore_strategies.momentum_growth import MomentumGrowth
from sparsecore_strategies.set import SparseEvolution

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
DPR = DynamicReallocation(target=20, initial_threshold=0.2, schedule=Every(steps=1))


@given(st.integers(0, 50))
def test_gradient_growth_above_dpr_keeps_its_pruning_and_grows_at_the_largest_gradients(seed):
    alone, stacked = engine(ROOMY, [DPR], seed=seed), engine(ROOMY, [DPR, GradientGrowth()], seed=seed)
    state = stacked.start(0.8)
    values, gradient = gathered(state.topology, drawn(ROOMY, seed)), drawn(ROOMY, seed + 99)
    _, expected = alone.update(alone.start(0.8), values)
    after, got = stacked.update(state, values, gradient.__getitem__)
    np.testing.assert_array_equal(got.pruned_positions, expected.pruned_positions)
    assert got.grown.tolist() == expected.grown.tolist()
    masks = {
        name: largest(~mask, gradient[name], count)
        for (name, mask), count in zip(masks_of(state.topology).items(), got.grown, strict=True)
    }
    assert same(after.topology.at(got.grown_positions), masks)


def test_gradient_growth_requests_dense_gradients_for_updates_only():
    algorithm = engine(TWO_TENSORS, [SparseEvolution(schedule=Every(steps=3)), GradientGrowth()])
    state, wanted = algorithm.start(0.8), []
    for _ in range(6):
        wanted.append(algorithm.plan(state).wants_gradient)
        values = np.ones(state.topology.size)
        state = algorithm.advance(state, values, gradient=drawn(TWO_TENSORS).__getitem__).state
    assert wanted == [False, False, True] * 2


def test_momentum_growth_grows_where_the_momentum_of_all_steps_is_largest():
    below = SparseEvolution(schedule=Every(steps=2), ranking="magnitude", start="uniform")
    algorithm = engine(ROOMY, [below, MomentumGrowth(momentum=0.5)])
    state = start = algorithm.start(0.8)
    gradients = [drawn(ROOMY, 1), drawn(ROOMY, 2)]
    for gradient in gradients:
        values = gathered(state.topology, drawn(ROOMY))
        advance = algorithm.advance(state, values, 0.1, gradient.__getitem__)
        state = advance.state
    got = advance.reallocation
    assert got.pruned_count > 50
    expected = {
        name: largest(~mask, gradients[0][name] / 2 + gradients[1][name], count)
        for (name, mask), count in zip(masks_of(start.topology).items(), got.grown, strict=True)
    }
    assert same(start.topology.at(got.grown_positions), expected)


@given(topologies(), st.data(), st.sampled_from([0.0, 0.29, 0.3, 0.5, 0.99]))
def test_magnitude_drop_drops_the_smallest_of_each_tensor(before, data, fraction):
    values = data.draw(values_of(before))
    kept = MagnitudeDrop(drop_fraction=fraction).prune(before, values, Clock())
    expected = {
        name: without_smallest(mask, dense_of(before, values, name), floored(fraction, mask.sum()))
        for name, mask in masks_of(before).items()
    }
    assert same(before.subset(kept), expected)


def dense_of(topology, values, name):
    dense = np.zeros(topology.layout.sizes[topology.layout.index(name)], values.dtype)
    dense[topology.local(name)] = values[topology.slots(name)]
    return dense


def test_magnitude_drop_over_the_network_leaves_each_tensor_its_largest():
    algorithm = engine(TWO_TENSORS, [MagnitudeDrop(drop_fraction=0.5, scope="network")])
    state = algorithm.start(0.9)
    values = np.concatenate([np.linspace(0.1, 0.2, 10), np.linspace(1, 2, 10)])
    _, got = algorithm.update(state, values)
    assert got.survives.tolist() == [False] * 9 + [True, False] + [True] * 9
    assert got.after.size == 20


def test_the_fraction_may_change_over_the_run():
    drop = MagnitudeDrop(drop_fraction={0: 0.5, 3: 0.1})
    algorithm = engine(TWO_TENSORS, [drop])
    moved = [
        algorithm.update(algorithm.start(0.8, clock=Clock(step=epoch)), np.arange(40.0))[1].pruned_count
        for epoch in (0, 2, 3)
    ]
    assert moved == [20, 20, 4]


def test_erk_start_only_changes_the_start_distribution():
    algorithm = engine(ROOMY, [DPR, ErkStart()])
    state = algorithm.start(0.9)
    assert state.topology.counts.tolist() == erdos_renyi_kernel(ROOMY, 0.9).tolist()
    assert algorithm.update(state, gathered(state.topology, drawn(ROOMY)))[1].pruned_count > 0


@pytest.mark.parametrize(
    ("piece", "arguments"),
    [
        (MagnitudeDrop, {"drop_fraction": 1.0}),
        (MagnitudeDrop, {"drop_fraction": -0.1}),
        (MagnitudeDrop, {"scope": "layer"}),
        (MomentumGrowth, {"momentum": 1.0}),
    ],
)
def test_hyperparameters_out_of_range_are_refused(piece, arguments):
    with pytest.raises(ValueError, match="must be"):
        piece(**arguments)


OFTEN = Every(steps=2)
STACKS = {
    "rigl": [("rigl", {"schedule": OFTEN})],
    "snfs": [("snfs", {"schedule": OFTEN})],
    "gmp": [("gmp", {"schedule": OFTEN})],
    "granet": [("granet", {"schedule": OFTEN})],
    "chts": [("chts", {"schedule": OFTEN})],
    "acdc": [("acdc", {})],
    "smet": [("smet", {"schedule": OFTEN})],
    "mest": [("mest", {"schedule": OFTEN})],
    "mest, soft": [("mest", {"schedule": OFTEN, "soft_bound": True}), ("erk-start", {})],
    "gse": [("gse", {"schedule": OFTEN})],
    "soft-deepr": [("soft-deepr", {"temperature": 1e-3})],
    "denser": [("set", {"schedule": OFTEN}), ("density-schedule", {"sparsity": 0.3})],
    "sparser": [("snfs", {"schedule": OFTEN}), ("density-schedule", {"scope": "network"})],
    "pieces": [("set", {"schedule": OFTEN}), ("magnitude-drop", {}), ("momentum-growth", {}), ("erk-start", {})],
}


def ended(arrays, stack, gradients, numbers, total=20):
    """Positions and values after a run, on the host."""
    strategies = {name: load("strategy", name)(**options) for name, options in stack}
    algorithm = Engine(ROOMY, strategies, arrays=arrays, seed=3)
    state = algorithm.start(0.8, clock=Clock(total_steps=total))
    dense = np.concatenate(list(numbers.values()))
    values = arrays.take(arrays.from_numpy(dense), state.topology.positions)
    values = algorithm.start_values(state, values)
    for gradient in gradients:
        there = {name: arrays.from_numpy(array) for name, array in gradient.items()}
        advance = algorithm.advance(state, values, 0.1, there.__getitem__)
        state, values = advance.state, advance.values
    return arrays.to_numpy(state.topology.positions), arrays.to_numpy(values), state.clock.updates


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_backend_takes_the_same_decisions(stack, tied):
    pytest.importorskip("torch")
    from sparsecore_torch.arrays import TorchArrays

    # rounded to whole numbers there are ties and zeros in plenty
    numbers, *gradients = (
        {name: np.round(array) if tied else array for name, array in drawn(ROOMY, seed).items()} for seed in range(21)
    )
    here, there = (ended(arrays, STACKS[stack], gradients, numbers) for arrays in (NumpyArrays(), TorchArrays()))
    assert here[2] == there[2] > 5
    np.testing.assert_array_equal(here[0], there[0])
    np.testing.assert_allclose(here[1], there[1], rtol=1e-6)
