"""GSE against the paper's rule spelled out by loops: random free candidates, of which the steepest grow."""

from fractions import Fraction

import numpy as np
import pytest
from engine_examples import engine, normal_values, plugin
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock, Cosine, Every
from sparsecore.engine.topology import Layout
from sparsecore_strategies.gse import GuidedExploration

LAYOUT = Layout.of({"wide": (20, 30), "narrow": (7, 9), "tiny": (4,)})


def tensor_of(position):
    return sum(position >= offset for offset in LAYOUT.offsets[1:])


def expected(strategy, topology, candidates, values, slopes, fraction):
    """The positions that are dropped, and those that grow, by sorted lists."""
    active, free = topology.host_positions.tolist(), candidates.host_positions.tolist()
    by_value = sorted(zip(np.abs(values).tolist(), active, strict=True))
    by_slope = sorted(zip((-np.abs(slopes)).tolist(), free, strict=True))
    if strategy.scope == "network":
        # the largest weight of a tensor is never dropped
        spared = {max(one for one in by_value if tensor_of(one[1]) == t)[1] for t in range(len(LAYOUT))}
        count = min(int(Fraction(str(fraction)) * len(active)), len(free))
        gone = [position for _, position in by_value if position not in spared][:count]
        return sorted(gone), sorted(position for _, position in by_slope[: len(gone)])
    gone, grown = [], []
    for tensor in range(len(LAYOUT)):
        own = [position for _, position in by_value if tensor_of(position) == tensor]
        best = [position for _, position in by_slope if tensor_of(position) == tensor]
        count = min(int(Fraction(str(fraction)) * len(own)), len(best))
        gone, grown = gone + own[:count], grown + best[:count]
    return sorted(gone), sorted(grown)


@given(
    st.sampled_from(["network", "tensor"]),
    st.sampled_from([0.0, 0.1, 0.29, 0.6]),
    st.sampled_from([0.01, 0.3, 1.0, 2.5, 30.0]),
    st.sampled_from([0.2, 0.6, 0.9]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_the_smallest_weights_go_and_the_steepest_candidates_grow(scope, fraction, subset, sparsity, tied, seed):
    strategy = GuidedExploration(scope=scope, drop_fraction=fraction, subset=subset, start="uniform")
    algorithm = engine(LAYOUT, [strategy], seed=seed)
    state = algorithm.start(sparsity, clock=Clock(step=seed, total_steps=1000))
    values = normal_values(state.topology, seed, np.float64)
    candidates = algorithm.candidates(state)
    free = candidates.host_positions.tolist()
    assert not set(free) & set(state.topology.host_positions.tolist())
    assert len(set(free)) == len(free)
    wanted = [int(Fraction(str(subset)) * int(count)) for count in state.topology.counts]
    assert candidates.counts.tolist() == np.minimum(wanted, state.topology.room).tolist()
    slopes = np.random.default_rng(seed + 1).standard_normal(len(free))
    if tied:
        values, slopes = np.round(values), np.round(slopes)
    after, moved = algorithm.update(state, values, candidate_gradient=slopes)
    gone, grown = expected(strategy, state.topology, candidates, values, slopes, fraction)
    assert moved.pruned_positions.tolist() == gone
    assert moved.grown_positions.tolist() == grown
    assert after.topology.size == state.topology.size


def test_candidates_differ_from_update_to_update_and_are_the_same_when_asked_for_again():
    algorithm = engine(LAYOUT, [GuidedExploration(schedule=Every(steps=1))])
    state = algorithm.start(0.9, clock=Clock(total_steps=100))
    first, again = algorithm.plan(state).candidates, algorithm.candidates(algorithm.plan(state).next_state)
    assert first.host_positions.tolist() == again.host_positions.tolist()
    zeros = np.zeros(first.size)
    advance = algorithm.advance(state, normal_values(state.topology), candidate_gradient=zeros)
    second = algorithm.plan(advance.state).candidates
    assert first.host_positions.tolist() != second.host_positions.tolist()


def test_many_updates_explore_the_network_and_keep_its_size():
    strategy = GuidedExploration(schedule=Every(steps=1), drop_fraction=Cosine(0.3, 0.0, until=0.6))
    algorithm = engine(LAYOUT, [strategy])
    state = algorithm.start(0.8, clock=Clock(total_steps=60))
    size, ever, draws = state.topology.size, set(), np.random.default_rng(0)
    for _ in range(60):
        plan = algorithm.plan(state)
        slopes = None if plan.candidates is None else draws.standard_normal(plan.candidates.size)
        values = draws.standard_normal(size)
        advance = algorithm.advance(state, values, plan=plan, candidate_gradient=slopes)
        assert plan.wants_gradient is plan.wants_weight_gradient is False
        if advance.reallocation is not None:
            assert set(advance.reallocation.grown_positions.tolist()) <= set(plan.candidates.host_positions.tolist())
        state = advance.state
        assert state.topology.size == size
        ever |= set(state.topology.host_positions.tolist())
    assert len(ever) > 3 * size


@pytest.mark.parametrize("scope", ["network", "tensor"])
def test_all_candidates_and_others_at_random_grow_where_more_is_pruned_than_there_are_candidates(scope):
    grown = []
    for seed in range(3):
        algorithm = engine(LAYOUT, [GuidedExploration(subset=0.05, scope=scope), plugin(prune=halving)], seed=seed)
        state = algorithm.start_at(engine(LAYOUT, [GuidedExploration()]).start(0.8).topology)
        candidates = algorithm.candidates(state)
        values = normal_values(state.topology)
        _, update = algorithm.update(state, values, candidate_gradient=np.zeros(candidates.size))
        grown.append(set(update.grown_positions.tolist()))
        assert len(grown[-1]) == state.topology.size // 2 > candidates.size > 0
        assert set(candidates.host_positions.tolist()) < grown[-1]
        assert not grown[-1] & set(state.topology.host_positions.tolist())
    assert len(set(map(frozenset, grown))) == 3


def halving(topology, values):
    """Prune the smaller half of all weights."""
    return topology.all_but(topology.arrays.smallest_indices(abs(values), topology.size // 2))


@pytest.mark.parametrize(
    "arguments", [{"drop_fraction": 1.0}, {"subset": 0.0}, {"subset": 101.0}, {"scope": "layer"}, {"start": "dense"}]
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|no start distribution named 'dense'"):
        GuidedExploration(**arguments)
