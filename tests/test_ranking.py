"""The smallest weights and the best free positions, against sorting in plain Python."""

import math

import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS, topologies, topology, values_of
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.topology import Layout
from sparsecore.toolbox import nm_groups
from sparsecore.toolbox.nm_groups import smallest_of_each_group
from sparsecore.toolbox.ranking import fraction_of, largest_free, smallest_of_all, smallest_of_each

# ties, zeros of both signs, what is not a number and what is not finite
SCORES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-40, math.nan, -math.nan, math.inf, -math.inf])


def scores_of(data, layout):
    return {
        name: np.array(data.draw(st.lists(SCORES, min_size=size, max_size=size)), np.float32)
        for name, size in zip(layout.names, layout.sizes, strict=True)
    }


def best_free(occupied, counts, scores):
    """Position by position: larger |score| first, then lower position; NaN at last."""
    found = []
    taken = set(occupied.positions.tolist())
    for name, offset, count in zip(occupied.layout.names, occupied.layout.offsets, counts, strict=False):
        ranked = sorted(
            (math.isnan(score), -abs(score) if not math.isnan(score) else 0.0, offset + place)
            for place, score in enumerate(scores[name].tolist())
            if offset + place not in taken
        )
        found += sorted(position for *_, position in ranked[:count])
    return found


@given(topologies(), st.data())
def test_growth_takes_the_largest_scores_among_free_positions_and_the_lowest_position_among_equals(occupied, data):
    scores = scores_of(data, occupied.layout)
    counts = [data.draw(st.integers(0, room)) for room in occupied.room.tolist()]
    got = largest_free(occupied, np.array(counts), scores.__getitem__)
    assert got.tolist() == best_free(occupied, counts, scores)
    assert got.dtype == occupied.layout.position_dtype


def test_nan_scores_are_chosen_last():
    occupied = topology(Layout.of({"w": (6,)}), [1])
    scores = np.array([np.nan, np.inf, 0.0, np.nan, 3.0, 0.0])
    chosen = [largest_free(occupied, [count], lambda _: scores).tolist() for count in (1, 3, 4, 5)]
    assert chosen == [[4], [2, 4, 5], [0, 2, 4, 5], [0, 2, 3, 4, 5]]


def test_positions_beyond_32_bits_are_found():
    layout = Layout.of({"vast": (2**32 + 7,), "last": (6,)})
    occupied = topology(layout, [3, 2**32 + 7 + 4])
    scores = np.array([1.0, -5.0, 0.0, 2.0, 9.0, 2.0])
    assert largest_free(occupied, [0, 2], lambda _: scores).tolist() == [2**32 + 7 + 1, 2**32 + 7 + 3]


def test_scores_are_not_requested_for_tensors_where_nothing_grows():
    occupied = topology(TWO_TENSORS, [0, 100])
    asked = []
    largest_free(occupied, [0, 3], lambda name: asked.append(name) or np.zeros(100))
    assert asked == ["second"]


@pytest.mark.parametrize("rounds", [0, 1, 12])
@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_the_smallest_of_each_group_agree_with_sorting_each(rounds, size, groups, data):
    scales = np.array(data.draw(st.lists(st.sampled_from([1, 30]), min_size=groups, max_size=groups)), np.float32)
    entries = st.lists(st.integers(-3, 3), min_size=groups * size, max_size=groups * size)
    ranks = np.array(data.draw(entries), np.float32) * np.repeat(scales, size)
    counts = data.draw(st.lists(st.integers(0, size), min_size=groups, max_size=groups))
    expected = []
    for group, count in enumerate(counts):
        own = range(group * size, (group + 1) * size)
        expected += sorted(sorted(own, key=lambda index: (ranks[index], index))[:count])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nm_groups, "_ROUNDS", rounds)
        found = smallest_of_each_group(ranks, size, np.array(counts, np.int64), ARRAYS)
    assert found.tolist() == expected


@given(topologies(), st.data())
def test_the_smallest_of_each_tensor_agree_with_sorting(before, data):
    values = data.draw(values_of(before))
    counts = [data.draw(st.integers(0, count)) for count in before.counts.tolist()]
    expected = []
    for name, count in zip(before.layout.names, counts, strict=True):
        slots = range(before.size)[before.slots(name)]
        expected += sorted(sorted(slots, key=lambda slot: abs(values[slot]))[:count])
    assert smallest_of_each(before, values, np.array(counts)).tolist() == expected


@given(topologies(), st.data())
def test_the_smallest_overall_are_exactly_as_many_as_requested_and_empty_no_tensor(before, data):
    values = data.draw(values_of(before))
    count = data.draw(st.integers(0, before.size - len(before.layout)))
    dropped = smallest_of_all(before, values, count)
    assert len(set(dropped.tolist())) == count
    kept = before.subset(before.all_but(dropped))
    assert (kept.counts >= 1).all()
    # one after the other, whoever is smallest and not the last of its tensor
    left = {name: list(range(before.size)[before.slots(name)]) for name in before.layout.names}
    for _ in range(count):
        candidates = [slot for slots in left.values() if len(slots) > 1 for slot in slots]
        smallest = min(candidates, key=lambda slot: (abs(values[slot]), slot))
        next(slots for slots in left.values() if smallest in slots).remove(smallest)
    assert sorted(dropped.tolist()) == sorted(set(range(before.size)) - {s for slots in left.values() for s in slots})


def test_fractions_are_computed_in_exact_decimals():
    assert fraction_of(0.29, np.array([100, 10, 3])).tolist() == [29, 2, 0]  # in floats 0.29·100 is below 29


@given(topologies(), st.data())
def test_every_backend_ranks_alike(before, data):
    torch = pytest.importorskip("torch")
    from sparsecore.engine.topology import Topology
    from sparsecore_torch.arrays import TorchArrays

    arrays = TorchArrays()
    values = data.draw(values_of(before))
    scores = scores_of(data, before.layout)
    counts = np.array([data.draw(st.integers(0, room)) for room in before.room.tolist()])
    there = Topology.of(before.layout, arrays.from_numpy(before.positions), arrays)
    grown = largest_free(there, counts, lambda name: torch.from_numpy(scores[name]))
    assert grown.tolist() == largest_free(before, counts, scores.__getitem__).tolist()
    half = before.counts // 2
    for one, other in (
        (smallest_of_each(before, values, half), smallest_of_each(there, torch.from_numpy(values), half)),
        (smallest_of_all(before, values, 2), smallest_of_all(there, torch.from_numpy(values), 2)),
    ):
        assert one.tolist() == other.tolist()


def test_ranking_does_not_change_its_inputs():
    occupied = topology(TWO_TENSORS, [3, 120])
    scores, values = ARRAYS.readonly(np.arange(100.0)), ARRAYS.readonly(np.array([2.0, -1.0]))
    assert largest_free(occupied, [2, 1], lambda _: scores).tolist() == [98, 99, 199]
    assert smallest_of_each(occupied, values, np.array([1, 0])).tolist() == [0]
