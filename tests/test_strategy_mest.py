"""MEST against the paper's rule spelled out by loops: what is dropped by |w| + λ|g|, and how many weights there are."""

from fractions import Fraction

import attrs
import numpy as np
import pytest
from engine_examples import engine, normal_values
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock, Cosine, Every
from sparsecore.engine.topology import Layout
from sparsecore_strategies.mest import MemoryEconomic

LAYOUT = Layout.of({"wide": (20, 30), "narrow": (7, 9), "full": (4,)})
STEPS = 40
EACH = Every(steps=2)


def whole(fraction, count):
    return int(Fraction(str(fraction)) * int(count))


def dropped(strategy, before, values, gradient, base, fraction):
    """The positions that the rule drops: of each tensor the lowest scores, of equal ones the lowest positions."""
    positions = set()
    for name, first, size in zip(before.layout.names, before.layout.offsets, before.layout.sizes, strict=False):
        slots = before.slots(name)
        own = before.host_positions[slots].tolist()
        scores = [
            (abs(value) + np.float64(strategy.gradient_weight) * abs(slope), position)
            for value, slope, position in zip(values[slots], gradient[slots], own, strict=True)
        ]
        count = len(own) - base[name] if strategy.soft_bound else min(whole(fraction, len(own)), size - len(own))
        positions |= {position for _, position in sorted(scores)[:count]}
        assert first <= min(own)
    return positions


def added(strategy, before, base, fraction):
    """How many weights the rule grows in each tensor."""
    rooms = zip(before.layout.names, before.layout.sizes, before.counts.tolist(), strict=True)
    if strategy.soft_bound:
        return [min(whole(fraction, base[name]), size - count) for name, size, count in rooms]
    return [min(whole(fraction, count), size - count) for _, size, count in rooms]


def history(strategy, seed=0, *, tied=False, frozen=(), steps=STEPS):
    """Every state of a run with random values and gradients, with the update that led to it, checked by the rule."""
    algorithm = engine(LAYOUT, [strategy], seed=seed)
    state = algorithm.start(0.8, clock=Clock(total_steps=steps))
    base = dict(zip(LAYOUT.names, state.topology.counts.tolist(), strict=True))
    draws = np.random.default_rng(seed)
    values, found = normal_values(state.topology, seed, np.float64), [(state, None)]
    for _ in range(steps):
        before = state.topology
        values = values + draws.normal(0, 0.3, before.size)
        gradient = draws.standard_normal(before.size)
        if tied:
            values, gradient = np.round(values), np.round(gradient)
        advance = algorithm.advance(state, values, weight_gradient=gradient, frozen=frozen)
        state, moved = advance.state, advance.reallocation
        if moved is not None and not frozen:
            fraction = (
                strategy.mutation(state.clock)
                if state.clock.step < min(int(strategy.until * steps), steps - 1)
                else 0.0
            )
            assert set(moved.pruned_positions.tolist()) == dropped(strategy, before, values, gradient, base, fraction)
            assert moved.grown.tolist() == added(strategy, before, base, fraction)
            assert not set(moved.grown_positions.tolist()) & set(before.host_positions.tolist())
            assert not moved.values[moved.grown_slots].any()
        values = advance.values
        found.append((state, moved))
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5, 20.0])
def test_weights_with_the_smallest_sum_of_value_and_gradient_go_and_as_many_grow(soft, weight, tied):
    strategy = MemoryEconomic(schedule=EACH, soft_bound=soft, gradient_weight=weight)
    updates = [moved for _, moved in history(strategy, tied=tied) if moved]
    assert len(updates) == (15 if soft else 14)
    assert sum(moved.pruned_count for moved in updates) > 50


def test_elastic_mutation_moves_less_and_less_and_keeps_the_number_of_weights():
    found = history(MemoryEconomic(schedule=EACH, mutation=Cosine(0.4, 0.0, until=0.75)))
    moved = [update.pruned_count for _, update in found if update]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 30
    assert moved[-1] < 5
    assert len({state.topology.size for state, _ in found}) == 1
    assert not any(update for state, update in found if state.clock.step >= 30)


@given(
    st.floats(0, 0.99).map(lambda number: round(number, 3)),
    st.floats(0, 0.99).map(lambda number: round(number, 3)),
    st.integers(1, 5),
    st.sampled_from([0.1, 0.5, 0.75, 1.0]),
    st.integers(0, 9),
)
@settings(max_examples=12, deadline=None)
def test_a_soft_bound_never_has_more_weights_than_those_of_the_start_and_the_mutation_and_ends_at_the_start(
    first, last, steps, until, seed
):
    mutation = Cosine(first, last, until=0.75)
    strategy = MemoryEconomic(mutation=mutation, soft_bound=True, until=until, schedule=Every(steps=steps))
    found = history(strategy, seed=seed, steps=16)
    start = found[0][0].topology.counts
    most = max(first, last)
    for state, moved in found:
        bound = start + [whole(most, count) for count in start]
        assert (state.topology.counts <= bound).all()
        assert (state.topology.counts >= start).all()
        if moved is not None:  # what has survived is as many as at the start
            assert (moved.before.counts - moved.pruned == start).all()
    end = min(int(until * 16), 15)
    assert all((state.topology.counts == start).all() for state, _ in found if state.clock.step >= end)
    if first >= 0.3 and until >= 0.5:
        assert any(state.topology.size > start.sum() for state, _ in found)


def test_a_full_network_under_a_soft_bound_is_pruned_again():
    layout = Layout.of({"weight": (10, 10)})
    strategy = MemoryEconomic(mutation=0.9, soft_bound=True, schedule=Every(steps=1), until=0.5)
    algorithm = engine(layout, [strategy])
    state = algorithm.start(0.45, clock=Clock(total_steps=8))
    sizes = []
    for _ in range(8):
        gradient = normal_values(state.topology, 1)
        advance = algorithm.advance(state, normal_values(state.topology), weight_gradient=gradient)
        state = advance.state
        sizes.append(state.topology.size)
    assert sizes == [100, 55, 100, 55, 55, 55, 55, 55]  # the free positions of a full network are none


def test_frozen_tensors_keep_their_weights_and_the_total_stays_bounded():
    strategy = MemoryEconomic(mutation=0.5, soft_bound=True, schedule=EACH)
    found = history(strategy, frozen=["wide"])
    start = found[0][0].topology
    assert any(moved for _, moved in found)
    for state, _ in found:
        assert state.topology.local("wide").tolist() == start.local("wide").tolist()
        assert state.topology.size <= start.size + sum(whole(0.5, count) for count in start.counts)
    assert found[-1][0].topology.counts.tolist() == start.counts.tolist()


def test_nothing_is_asked_for_between_updates():
    algorithm = engine(LAYOUT, [MemoryEconomic(schedule=EACH)])
    state = algorithm.start(0.8, clock=Clock(total_steps=STEPS))
    plan = algorithm.plan(state)
    assert plan.is_idle
    assert not plan.wants_weight_gradient
    plan = algorithm.plan(attrs.evolve(state, clock=attrs.evolve(state.clock, step=1)))
    assert plan.wants_weight_gradient
    assert not plan.wants_gradient


def test_units_are_ranked_by_the_means_of_their_weights():
    from sparsecore.engine.units import Blocks

    layout = Layout.of({"weight": (8, 8)})
    strategy = MemoryEconomic(mutation=0.5, gradient_weight=2.0, schedule=Every(steps=1))
    algorithm = engine(layout, [strategy], units=Blocks(2, 2))
    state = algorithm.start(0.5, clock=Clock(total_steps=9))
    values, gradient = (normal_values(state.topology, seed, np.float64) for seed in (1, 2))
    moved = algorithm.update(state, values, weight_gradient=gradient)[1]
    dense = np.zeros((2, 64))
    dense[:, state.topology.host_positions] = abs(values), abs(gradient)
    means = dense.reshape(2, 4, 2, 4, 2).mean((2, 4)).reshape(2, 16)
    scores = means[0] + 2 * means[1]
    blocks = np.flatnonzero(scores)
    lowest = blocks[np.argsort(scores[blocks])[: len(blocks) // 2]]
    gone = np.zeros(64)
    gone[moved.pruned_positions] = 1
    assert np.flatnonzero(gone.reshape(4, 2, 4, 2).sum((1, 3)).ravel()).tolist() == sorted(lowest.tolist())


@pytest.mark.parametrize(
    "arguments", [{"mutation": 1.0}, {"gradient_weight": -1.0}, {"until": 0.0}, {"until": 1.5}, {"start": "dense"}]
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|no start distribution named 'dense'"):
        MemoryEconomic(**arguments)
