"""Growth: distinct free positions, uniformly, without a mask.

The chi-square tests run on fixed seeds, so that they either always pass or never; the threshold p > 1e-3 was chosen
before the seeds.
"""

import tracemalloc
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from engine_examples import ARRAYS, active, layouts, topologies, topology
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsecore.engine.growth import draw_ranks, free_positions, random_free_positions, random_topology
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout


@st.composite
def growths(draw):
    before = draw(topologies())
    return before, [draw(st.integers(0, int(room))) for room in before.room]


@given(growths(), st.integers(0, 100))
def test_growth_draws_exactly_as_many_distinct_free_positions_in_each_tensor(growth, seed):
    before, counts = growth
    grown = random_free_positions(before, counts, Randomness(seed))
    assert grown.dtype == before.layout.position_dtype
    assert (np.diff(grown) > 0).all()
    assert not set(grown.tolist()) & active(before)
    assert before.at(grown).counts.tolist() == counts


@given(topologies())
def test_all_ranks_are_all_free_positions_in_order(before):
    free = sorted(set(range(before.layout.size)) - active(before))
    assert free_positions(before, [np.arange(room) for room in before.room]).tolist() == free


@given(growths(), st.data())
def test_the_free_position_of_a_rank_equals_that_of_a_mask(growth, data):
    before, counts = growth
    ranks, wanted = [], []
    for name, room, offset, count in zip(before.layout.names, before.room, before.layout.offsets, counts, strict=False):
        chosen = data.draw(st.permutations(range(int(room))))[:count]
        ranks.append(np.array(sorted(chosen), np.int64))
        wanted += [offset + int(np.flatnonzero(~before.mask(name).ravel())[rank]) for rank in sorted(chosen)]
    assert free_positions(before, ranks).tolist() == wanted


def test_free_positions_reach_the_last_one_of_int32():
    layout = Layout.of({"w": (2**31 - 1,)})
    before = topology(layout, [0, 2**31 - 3])
    ranks = np.array([0, layout.size - 4, layout.size - 3])
    grown = free_positions(before, [ranks])
    assert grown.dtype == np.int32
    assert grown.tolist() == [1, 2**31 - 4, 2**31 - 2]


@given(layouts(), st.data(), st.integers(0, 100))
def test_a_random_topology_has_the_requested_counts(layout, data, seed):
    counts = [data.draw(st.integers(0, size)) for size in layout.sizes]
    assert random_topology(layout, counts, Randomness(seed), ARRAYS).counts.tolist() == counts


def test_growth_is_uniform_over_all_subsets_of_free_positions():
    before = topology(Layout.of({"w": (7,), "other": (3,)}), [1, 4, 7])
    drawn = Counter(tuple(random_free_positions(before, [2, 0], Randomness(seed)).tolist()) for seed in range(5000))
    subsets = list(combinations([0, 2, 3, 5, 6], 2))
    assert set(drawn) == set(subsets)
    assert stats.chisquare([drawn[subset] for subset in subsets]).pvalue > 1e-3


@pytest.mark.parametrize(("room", "count"), [(40, 10), (20_000, 5), (20_000, 2_000)])
def test_growth_of_few_and_of_many_positions_is_uniform(room, count):
    # few of many, many of many, few of few are three algorithms in NumPy
    counts = np.zeros(20)
    for seed in range(max(3, 8000 // count)):
        ranks = draw_ranks(Randomness(seed).generator("w"), room, count)
        counts += np.histogram(ranks, 20, (0, room))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("size", "count"), [(10**12, 10_000), (10**6, 100_000), (2 * 10**5, 10_001)])
def test_growth_takes_memory_for_new_positions_and_not_for_the_dense_size(size, count):
    nothing = topology(Layout.of({"w": (size,)}), [])
    tracemalloc.start()
    try:
        random_free_positions(nothing, [count], Randomness(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 250 * count


@given(growths(), st.integers(0, 100))
def test_a_tensors_draw_is_keyed_by_its_name_alone(growth, seed):
    before, counts = growth
    grown = before.at(random_free_positions(before, counts, Randomness(seed)))
    for i, name in enumerate(before.layout.names):
        alone = topology(Layout([name], [before.layout.shapes[i]]), before.local(name))
        assert random_free_positions(alone, [counts[i]], Randomness(seed)).tolist() == grown.local(name).tolist()


def test_tensors_of_the_same_shape_draw_independently():
    nothing = topology(Layout.of({"one": (1000,), "other": (1000,)}), [])
    grown = nothing.at(random_free_positions(nothing, [100, 100], Randomness(0)))
    assert len(set(grown.local("one").tolist()) & set(grown.local("other").tolist())) < 50
