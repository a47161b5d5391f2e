"""One reallocation of the engine against Algorithm 1 on dense masks, in Python's loops."""

import tracemalloc

import numpy as np
import pytest
from engine_examples import active, engine, normal_values, topologies, topology, values_of
from engine_oracles import adjusted_threshold, pruned_by_threshold, whole_shares
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsecore.engine.engine import State
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, NoRoomError
from sparsecore_strategies.dpr import DynamicReallocation, Threshold

THRESHOLDS = st.sampled_from([5e-324, 1e-45, 1e-40, 1e-3, 0.25, 1.0, 3.0]) | st.floats(1e-6, 3)


@st.composite
def moments(draw):
    """A topology, its values, a threshold, a target and a tolerance."""
    before = draw(topologies())
    assume(before.size > 1)
    return (
        before,
        draw(values_of(before)),
        draw(THRESHOLDS),
        draw(st.integers(1, before.size - 1)),
        draw(st.sampled_from([0.0, 0.1, 0.15, 0.18, 0.5])),
    )


def dpr_update(moment, *, regrow_pruned=False, seed=0):
    before, values, threshold, target, tolerance = moment
    strategy = DynamicReallocation(target=target, tolerance=tolerance, initial_threshold=threshold)
    algorithm = engine(before.layout, {"dpr": strategy}, seed=seed, regrow_pruned=regrow_pruned)
    state, reallocation = algorithm.update(algorithm.start_at(before), values)
    return state.strategy_states["dpr"].threshold, reallocation


def dense_parts(layout, dense):
    return [dense[first:last].tolist() for first, last in zip(layout.offsets, layout.offsets[1:], strict=False)]


def dense_of(topology, vector):
    dense = np.zeros(topology.layout.size, vector.dtype)
    dense[topology.positions] = vector
    return dense


def masks_of(topology):
    return dense_parts(topology.layout, dense_of(topology, np.ones(topology.size, np.bool_)))


@pytest.mark.parametrize("regrow_pruned", [False, True])
@given(moments(), st.integers(0, 50))
def test_an_update_equals_algorithm_1_on_dense_masks(regrow_pruned, moment, seed):
    before, values, threshold, target, tolerance = moment
    masks, weights = masks_of(before), dense_parts(before.layout, dense_of(before, values))

    # lines 1 to 5; weights are compared in their own dtype, and an exact zero is below any threshold
    kept = pruned_by_threshold(masks, weights, float(values.dtype.type(threshold)) or 5e-324)
    survivors = [sum(mask) for mask in kept]
    pruned = [sum(mask) - left for mask, left in zip(masks, survivors, strict=True)]
    total = sum(pruned)
    occupied = kept if regrow_pruned else masks
    room = [len(mask) - sum(mask) for mask in occupied]
    if total > sum(room):
        with pytest.raises(NoRoomError, match=f"{total} weights.*{sum(room)} positions"):
            dpr_update(moment, regrow_pruned=regrow_pruned, seed=seed)
        return
    next_threshold, got = dpr_update(moment, regrow_pruned=regrow_pruned, seed=seed)

    # line 6
    assert got.pruned.tolist() == pruned
    assert got.pruned_count == total
    assert next_threshold == adjusted_threshold(threshold, total, target, tolerance)

    # lines 7 to 9; where to grow is chance, how much and where not is not
    grown = masks_of(got.after.at(got.grown_positions))
    assert [sum(mask) for mask in grown] == got.grown.tolist() == whole_shares(total, survivors, room)
    after, dense, momentum = masks_of(got.after), [], []
    carried = normal_values(before)
    momenta = dense_parts(before.layout, dense_of(before, carried))
    for i, mask in enumerate(after):
        assert not any(new and old for new, old in zip(grown[i], occupied[i], strict=True))
        assert mask == [new or old for new, old in zip(grown[i], kept[i], strict=True)]
        stays = [is_kept and not new for is_kept, new in zip(kept[i], grown[i], strict=True)]
        dense += [weight if stay else 0.0 for weight, stay in zip(weights[i], stays, strict=True)]
        momentum += [moment if stay else 0.0 for moment, stay in zip(momenta[i], stays, strict=True)]
    assert dense_of(got.after, got.values).tolist() == dense
    assert got.values.dtype == values.dtype
    assert dense_of(got.after, got.carry(carried)).tolist() == momentum


@given(moments())
def test_a_surviving_negative_zero_keeps_its_sign(moment):
    before, values, *_ = moment
    _, got = allowed_update(moment)
    signs = dict(zip(before.positions.tolist(), np.signbit(values).tolist(), strict=True))
    grown = set(got.grown_positions.tolist())
    for position, sign in zip(got.after.positions.tolist(), np.signbit(got.values).tolist(), strict=True):
        assert sign == (False if position in grown else signs[position])


def allowed_update(moment, **options):
    try:
        return dpr_update(moment, **options)
    except NoRoomError:
        assume(False)


@pytest.mark.parametrize("regrow_pruned", [False, True])
@given(moments())
def test_the_number_of_weights_never_changes_and_positions_stay_sorted_distinct_and_within_bounds(
    regrow_pruned, moment
):
    _, got = allowed_update(moment, regrow_pruned=regrow_pruned)
    positions = got.after.positions
    assert len(positions) == got.after.size == got.before.size == len(got.values)
    assert positions.dtype == got.after.layout.position_dtype
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < got.after.layout.size
    assert got.pruned.sum() == got.grown.sum() == len(got.pruned_positions) == len(got.grown_positions)


@given(moments())
def test_before_minus_pruned_plus_grown_is_after_and_nothing_that_was_active_grows(moment):
    _, got = allowed_update(moment)
    pruned, grown = set(got.pruned_positions.tolist()), set(got.grown_positions.tolist())
    assert pruned <= active(got.before)
    assert not grown & active(got.before)
    assert active(got.before) - pruned | grown == active(got.after)
    assert got.after.positions[got.grown_slots].tolist() == sorted(grown)


def test_pruned_positions_may_regrow_only_with_regrow_pruned():
    before = topology(Layout.of({"w": (100,)}), range(50))
    moment = before, np.where(np.arange(50) < 25, 0.0, 1.0), 0.5, 20, 0.1
    _, got = dpr_update(moment)
    assert not set(got.grown_positions.tolist()) & active(before)
    _, got = dpr_update(moment, regrow_pruned=True)
    back = set(got.grown_positions.tolist()) & set(got.pruned_positions.tolist())
    assert back
    assert active(before) - set(got.pruned_positions.tolist()) | set(got.grown_positions.tolist()) == active(got.after)


@given(moments(), st.sampled_from([np.float32, np.float64, np.int8, np.bool_]), st.sampled_from([(), (3,)]))
def test_carry_keeps_survivors_zeroes_grown_entries_and_does_not_change_its_input(moment, dtype, row):
    _, got = allowed_update(moment)
    slots = np.random.default_rng(1).integers(1, 100, (got.before.size, *row)).astype(dtype)
    given_ = slots.copy()
    carried = got.carry(slots)
    np.testing.assert_array_equal(slots, given_)
    assert carried.dtype == dtype
    assert carried.shape == slots.shape
    entries = dict(zip(got.before.positions.tolist(), slots.tolist(), strict=True))
    nothing = np.zeros(row, dtype).tolist()
    grown = set(got.grown_positions.tolist())
    wanted = [nothing if position in grown else entries[position] for position in got.after.positions.tolist()]
    assert carried.tolist() == wanted


@given(moments())
def test_an_update_does_not_change_the_previous_values_and_topology(moment):
    before, values, *_ = moment
    given_positions, given_values = before.positions.copy(), values.copy()
    allowed_update(moment)
    np.testing.assert_array_equal(before.positions, given_positions)
    assert values.tobytes() == given_values.tobytes()


@pytest.mark.parametrize("wrong", [-1, 1])
def test_carrying_a_vector_of_another_length_is_refused(wrong):
    before = topology(Layout.of({"w": (100,)}), range(50))
    _, got = dpr_update((before, normal_values(before), 0.1, 5, 0.1))
    with pytest.raises(InputError, match=f"one entry a weight, 50; given {50 + wrong}"):
        got.carry(np.zeros(50 + wrong))


def test_a_tensor_that_would_be_emptied_keeps_its_first_largest_weight():
    layout = Layout.of({"tiny": (20,), "tied": (20,), "zero": (20,), "large": (100,)})
    before = topology(layout, [*range(3), *range(20, 23), *range(40, 43), *range(60, 80)])
    values = np.array([0.01, -0.03, 0.02, 0.02, -0.02, 0.02, 0.0, -0.0, 0.0, *[9.0] * 20], np.float32)
    _, got = dpr_update((before, values, 0.5, 6, 0.1))
    assert got.pruned.tolist() == [2, 2, 2, 0]
    assert got.pruned_positions.tolist() == [0, 2, 21, 22, 41, 42]


def test_values_at_the_threshold_survive():
    before = topology(Layout.of({"w": (10,)}), range(4))
    _, got = dpr_update((before, np.array([0.5, -0.5, 0.499, -0.499]), 0.5, 2, 0.1))
    assert got.pruned_positions.tolist() == [2, 3]


def test_the_error_for_missing_room_names_tensors_and_remedy():
    layout = Layout.of({"full": (4,), "crowded": (6,)})
    before = topology(layout, range(9))
    with pytest.raises(NoRoomError, match=r"7 weights .* only 1 .* full; prune less, .*regrow_pruned"):
        dpr_update((before, np.full(9, 0.1), 0.5, 5, 0.1))


def test_reallocating_a_million_weights_among_three_billion_positions_takes_memory_for_a_million():
    layout = Layout.of({"first": (1000, 1000, 1000), "second": (2000, 1000, 1000)})
    assert layout.position_dtype == np.int64
    draw = np.random.default_rng(0)
    before = topology(layout, np.unique(draw.integers(0, layout.size, 1_001_000))[:1_000_000])
    values = normal_values(before)
    algorithm = engine(layout, {"dpr": DynamicReallocation(target=100_000)})
    state = State(before, {"dpr": Threshold(0.1)}, algorithm.start_at(before).clock)
    tracemalloc.start()
    try:
        _, got = algorithm.update(state, values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.after.size == before.size == 1_000_000
    assert 70_000 < got.pruned_count < 90_000
    assert got.after.positions.dtype == np.int64
    assert got.after.positions[-1] > 2**31
    assert peak < 70e6


@pytest.mark.parametrize("factor", [1, 100])
def test_memory_of_an_update_does_not_depend_on_the_dense_size(factor):
    layout = Layout.of({"w": (20_000_000, factor)})
    before = topology(layout, np.arange(0, 50_000) * factor)
    algorithm = engine(layout, {"dpr": DynamicReallocation(target=5_000, initial_threshold=0.1)})
    state = algorithm.start_at(before)
    values = normal_values(before)
    tracemalloc.start()
    try:
        algorithm.update(state, values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4.5e6
