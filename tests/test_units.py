"""Units of several weights are pruned and grown as one, by the same engine, to the oracle of dense blocks."""

from itertools import product

import numpy as np
import pytest
from engine_examples import ARRAYS, engine, normal_values, plugin
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, from_masks
from sparsecore.engine.units import Blocks, Kernels, SingleWeights, as_units
from sparsecore.errors import InputError
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.gradient_growth import GradientGrowth
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.snfs import SparseMomentum
from sparsecore_strategies.static import Static

CONVOLUTIONS = Layout.of({"first": (4, 3, 3, 3), "second": (5, 4, 3, 3)})


def blocks_of(array, block):
    """{place of the unit: its weights, row-major}, by cutting the dense array."""
    counts = [side // part for side, part in zip(array.shape, block, strict=True)]
    return {
        index: array[tuple(slice(i * part, (i + 1) * part) for i, part in zip(index, block, strict=True))].ravel()
        for index in product(*map(range, counts))
    }


def dense_values(topology, values, name):
    dense = np.zeros(topology.mask(name).shape)
    dense[topology.mask(name)] = values[topology.slots(name)]
    return dense


@st.composite
def cut_layouts(draw):
    """A layout of two or three tensors that are made of whole blocks, and the blocks."""
    side = st.integers(2, 4)
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.sampled_from([(), (2,), (3, 3)]))
    channels = st.tuples(side, side)
    shapes = [(i * rows, j * columns, *kernel) for i, j in draw(st.lists(channels, min_size=2, max_size=3))]
    layout = Layout([f"tensor{i}" for i in range(len(shapes))], shapes)
    return layout, draw(st.sampled_from([Blocks(rows, columns), Kernels(), SingleWeights()]))


LONG = Clock(total_steps=1000, steps_per_epoch=500)
STRATEGIES = {
    "dpr": DynamicReallocation(target=1, initial_threshold=0.5),
    "set": SparseEvolution(),
    "rigl": RigL(),
    "snfs": SparseMomentum(),
    "static": Static(),
}


def gradient_of(layout, seed):
    draws = np.random.default_rng([seed, 1])
    dense = {name: draws.standard_normal(size) for name, size in zip(layout.names, layout.sizes, strict=True)}
    return dense.__getitem__


def on_backend(gradient, arrays):
    return lambda name: arrays.from_numpy(gradient(name))


@given(cut_layouts(), st.sampled_from(sorted(STRATEGIES)), st.integers(0, 99), st.sampled_from([0.3, 0.6, 0.9]))
def test_units_are_active_as_a_whole_and_their_number_stays(cut, name, seed, sparsity):
    layout, units = cut
    algorithm = engine(layout, {name: STRATEGIES[name]}, units=units, seed=seed, regrow_pruned=True)
    state = algorithm.start(sparsity, clock=LONG)
    values = normal_values(state.topology)
    for step in range(3):
        before = state
        # SNFS has to see a gradient first
        state = algorithm.advance(state, values, 0.1, gradient_of(layout, seed)).state
        state, moved = algorithm.update(state, values, gradient_of(layout, seed + step))
        values = moved.values
        there = [
            {tuple(unit) for unit in blocks_of(state.topology.mask(tensor), units.of(shape)).values()}
            for tensor, shape in zip(layout.names, layout.shapes, strict=True)
        ]
        assert all(len(set(unit)) == 1 for tensor in there for unit in tensor)
        assert number_of_units(state.topology, units) == number_of_units(before.topology, units)
        assert moved.after.size == moved.before.size == state.topology.size


def number_of_units(topology, units):
    return sum(
        topology.mask(name).sum() / np.prod(units.of(shape))
        for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)
    )


@given(cut_layouts(), st.integers(0, 99))
def test_survivors_keep_their_values_and_grown_units_start_at_zero(cut, seed):
    layout, units = cut
    algorithm = engine(layout, {"set": SparseEvolution()}, units=units, seed=seed, regrow_pruned=True)
    state = algorithm.start(0.5)
    values = normal_values(state.topology)
    after, moved = algorithm.update(state, values)
    for name in layout.names:
        old, new = dense_values(state.topology, values, name), dense_values(after.topology, moved.values, name)
        survives = np.zeros(state.topology.layout.size, np.bool_)
        survives[ARRAYS.to_numpy(state.topology.positions)[moved.survives]] = True
        first = layout.offsets[layout.index(name)]
        kept = survives[first : first + old.size].reshape(old.shape)
        np.testing.assert_array_equal(new, np.where(kept, old, 0))
    momentum = np.arange(1.0, state.topology.size + 1)
    carried = dict(zip(moved.after.positions.tolist(), moved.carry(momentum).tolist(), strict=True))
    had = dict(zip(state.topology.positions.tolist(), momentum.tolist(), strict=True))
    grown = set(moved.grown_positions.tolist())
    assert all(carried[place] == (0 if place in grown else had[place]) for place in carried)


def test_dpr_prunes_the_kernels_whose_mean_magnitude_is_below_the_threshold():
    seen = {}

    def reallocated(reallocation):
        seen["units"] = reallocation

    watching = plugin(reallocated=reallocated)
    algorithm = engine(
        CONVOLUTIONS, {"dpr": DynamicReallocation(target=4, initial_threshold=0.7), "w": watching}, units=Kernels()
    )
    state = algorithm.start(0.3)
    values = normal_values(state.topology)
    _, moved = algorithm.update(state, values)
    for name, shape in zip(CONVOLUTIONS.names, CONVOLUTIONS.shapes, strict=True):
        mask, dense = state.topology.mask(name), dense_values(state.topology, values, name)
        below = {
            place: np.abs(weights).mean() < 0.7
            for place, weights in blocks_of(dense, Kernels().of(shape)).items()
            if blocks_of(mask, Kernels().of(shape))[place].all()
        }
        assert 0 < sum(below.values()) < len(below)
        tensor = CONVOLUTIONS.index(name)
        assert seen["units"].pruned[tensor] == sum(below.values())
        assert moved.pruned[tensor] == sum(below.values()) * np.prod(shape[2:], dtype=int)


def test_gradient_growth_selects_the_units_of_the_largest_mean_gradient():
    layout = Layout.of({"weight": (8, 8)})
    mask = np.zeros((8, 8), np.bool_)
    mask[:2, :2] = mask[4:6, 4:6] = True
    algorithm = engine(
        layout,
        {"prune": plugin(prune=lambda topology: np.arange(topology.size) > 0), "grow": GradientGrowth()},
        units=Blocks(2, 2),
    )
    gradient = np.full((8, 8), 0.1)
    gradient[0, 2] = 0.9  # the largest single one: its block has a mean of 0.3
    gradient[6:, 2:4] = -0.4
    state = algorithm.start_at(from_masks([mask], ["weight"], ARRAYS))
    after, _ = algorithm.update(state, np.ones(8), {"weight": gradient.ravel()}.__getitem__)
    expected = np.zeros((8, 8), np.bool_)
    expected[4:6, 4:6] = expected[6:, 2:4] = True
    np.testing.assert_array_equal(after.topology.mask("weight"), expected)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_units_of_one_weight_decide_as_weights_do(name):
    layout = Layout.of({"linear": (6, 8), "pointwise": (5, 4, 1, 1)})
    ends = []
    for units in (SingleWeights(), Kernels(), Blocks(1, 1)):
        algorithm = engine(layout, {name: STRATEGIES[name]}, units=units)
        state = algorithm.start(0.5, clock=LONG)
        gradient = gradient_of(layout, 3)
        moved = algorithm.advance(state, normal_values(state.topology), 0.1, gradient).state
        ends.append(algorithm.update(moved, normal_values(moved.topology), gradient)[0].topology.sha256())
    assert len(set(ends)) == 1


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("units", [Kernels(), Blocks(1, 2)])
def test_torch_reallocates_the_same_units(name, units):
    pytest.importorskip("torch")
    from sparsecore_torch.arrays import TorchArrays

    layout = Layout.of({"first": (4, 6, 3, 3), "second": (2, 8, 3, 3)})
    ends = []
    for arrays in (ARRAYS, TorchArrays()):
        algorithm = Engine(layout, {name: STRATEGIES[name]}, arrays=arrays, units=units)
        state = algorithm.start(0.6, clock=LONG)
        values = arrays.from_numpy(normal_values(state.topology).astype(np.float32))
        for seed in range(3):
            gradient = on_backend(gradient_of(layout, seed), arrays)
            state, moved = algorithm.update(state, values, gradient)
            draws = np.random.default_rng(seed).standard_normal(moved.after.size).astype(np.float32)
            values = moved.values + arrays.from_numpy(draws)
        ends.append((state.topology.sha256(), arrays.to_numpy(moved.values).tobytes()))
    assert ends[0] == ends[1]


def test_a_tensor_that_does_not_divide_into_units_is_refused_by_name():
    with pytest.raises(InputError, match=r"'linear' of shape \(6, 8\) is not made of whole units of shape \(4, 4\)"):
        engine(Layout.of({"linear": (6, 8)}), [Static()], units=Blocks(4, 4))


def test_moving_units_between_tensors_must_not_change_the_number_of_weights():
    layout = Layout.of({"small": (6, 6), "large": (6, 6, 3, 3)})
    masks = [np.arange(36).reshape(6, 6) < 18, np.repeat(np.arange(36) < 18, 9).reshape(6, 6, 3, 3)]
    prune_small = plugin(prune=lambda topology: np.arange(topology.size) >= 4)
    start = from_masks(masks, layout.names, ARRAYS)

    across = engine(layout, [prune_small], units=Kernels())
    state = across.start_at(start)
    with pytest.raises(InputError, match="weights a unit: 1 in 'small', 9 in 'large'"):
        across.update(state, normal_values(start))

    within = engine(layout, {"within": plugin(allocate=lambda pruned: pruned), "pruning": prune_small}, units=Kernels())
    state = within.start_at(start)
    assert within.update(state, normal_values(start))[1].after.size == start.size


def test_a_strategy_that_changes_single_weights_is_refused():
    with pytest.raises(InputError, match=r"'DeepRewiring' changes single weights .* several, kernels"):
        engine(CONVOLUTIONS, [DeepRewiring()], units=Kernels())
    engine(Layout.of({"linear": (6, 8)}), [DeepRewiring()], units=Kernels())  # its kernels are single weights


def test_a_start_with_half_a_unit_is_refused():
    mask = np.ones((4, 4), np.bool_)
    mask[0, 0] = False
    with pytest.raises(InputError, match="parts of units"):
        engine(Layout.of({"weight": (4, 4)}), [Static()], units=Blocks(2, 2)).start_at(
            from_masks([mask], ["weight"], ARRAYS)
        )


@pytest.mark.parametrize("given", ["kernel", "4 x 4", "0x4", "4x", "x", "", "²x2", 4, None, True])
def test_unknown_units_are_refused(given):
    with pytest.raises(InputError, match=r"^units are weights, kernels or blocks such as 4x4; given "):
        as_units(given)


def test_units_are_read_back_from_their_names():
    for units in (SingleWeights(), Kernels(), Blocks(4, 16)):
        assert as_units(str(units)) == as_units(units) == units
