"""SET follows the paper: the smallest positive and the smallest negative weights are pruned, tensor by tensor."""

import math
from fractions import Fraction

import numpy as np
import pytest
from engine_examples import engine, normal_values, topologies, topology, values_of
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsecore.engine.distributions import erdos_renyi, erdos_renyi_kernel, uniform
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.set import SparseEvolution

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
FRACTIONS = st.sampled_from([0.0, 0.1, 0.138, 0.29, 0.3, 0.5, 0.58, 0.99])


def closest_to_zero(entries, count):
    """(magnitude, position) pairs: the positions of those that come first in order."""
    return [position for _, position in sorted(entries)[:count]]


def expected_drops(before, values, fraction, ranking):
    dropped = set()
    for name in before.layout.names:
        slots = before.slots(name)
        entries = list(zip(values[slots].tolist(), before.positions[slots].tolist(), strict=True))
        quota = Fraction(str(fraction)) * len(entries)
        if ranking == "signed":
            zeros = [(0, position) for value, position in entries if value == 0]
            signs = [[(abs(v), position) for v, position in entries if v * sign > 0] for sign in (1, -1)]
            dropped.update(closest_to_zero(zeros, math.floor(quota)))
            for own in signs:
                share = max(0, quota - len(zeros)) * Fraction(len(own), max(1, len(entries) - len(zeros)))
                dropped.update(closest_to_zero(own, math.floor(share)))
        else:
            dropped.update(closest_to_zero([(abs(value), position) for value, position in entries], math.floor(quota)))
    return dropped


@pytest.mark.parametrize("ranking", ["signed", "magnitude"])
@given(topologies(), st.data(), FRACTIONS)
def test_each_tensor_drops_the_fraction_closest_to_zero(ranking, before, data, fraction):
    values = data.draw(values_of(before))
    kept = SparseEvolution(drop_fraction=fraction, ranking=ranking).prune(before, values)
    dropped = set(before.positions[~kept].tolist())
    assert dropped == expected_drops(before, values, fraction, ranking)


def test_the_most_negative_weights_are_kept():
    before = topology(Layout.of({"w": (100,)}), range(8))
    values = np.array([-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0])
    kept = SparseEvolution(drop_fraction=0.5).prune(before, values)
    assert values[~kept].tolist() == [-2.0, -1.0, 1.0, 2.0]


def test_weights_of_each_sign_are_ranked_separately_or_all_by_magnitude():
    before = topology(Layout.of({"w": (100,)}), range(8))
    values = np.array([-4.0, -3.0, -2.5, -2.0, 0.1, 0.2, 0.3, 0.4])
    signed = SparseEvolution(drop_fraction=0.5).prune(before, values)
    magnitude = SparseEvolution(drop_fraction=0.5, ranking="magnitude").prune(before, values)
    assert values[~signed].tolist() == [-2.5, -2.0, 0.1, 0.2]
    assert values[~magnitude].tolist() == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zeros_are_pruned_first_and_count_in_the_fraction(zero):
    before = topology(Layout.of({"w": (100,)}), range(10))
    few = np.array([-3.0, zero, 0.1, 0.2, -0.1, 4.0, zero, 5.0, 6.0, -7.0])
    kept = SparseEvolution(drop_fraction=0.5).prune(before, few)
    # the zeros are two of the five; of five positive and three negative weights 3/8 go
    assert sorted(few[~kept].tolist()) == [-0.1, 0.0, 0.0, 0.1]
    many = np.array([zero, 0.1, zero, zero, -0.1, zero, zero, zero, zero, 1.0])
    assert np.flatnonzero(~SparseEvolution(drop_fraction=0.3).prune(before, many)).tolist() == [0, 2, 3]


@given(topologies(), st.data(), FRACTIONS)
def test_no_nonzero_weight_is_pruned_while_a_zero_remains_in_its_tensor(before, data, fraction):
    values = data.draw(values_of(before))
    kept = SparseEvolution(drop_fraction=fraction).prune(before, values)
    for name in before.layout.names:
        slots = before.slots(name)
        own, stays = values[slots], kept[slots]
        assert not ((own == 0) & stays).any() or (own[~stays] == 0).all()
        assert (~stays).sum() <= Fraction(str(fraction)) * len(own)


def test_growth_at_positions_without_gradient_does_not_drain_the_network():
    # a half of the positions is dead: what grows there stays zero
    layout = Layout.of({"w": (200,)})
    algorithm, draws = engine(layout, [SparseEvolution(drop_fraction=0.3)]), np.random.default_rng(0)
    state = algorithm.start(0.8)
    values = np.where(state.topology.positions < 100, draws.normal(size=40), 0)
    for _ in range(50):
        state, got = algorithm.update(state, values)
        values = np.where((got.values == 0) & (state.topology.positions < 100), draws.normal(size=40), got.values)
    assert np.count_nonzero(values) >= 28


def test_the_fraction_is_computed_in_exact_decimals():
    # in floats 0.29·100 is below 29
    before = topology(Layout.of({"w": (1000,)}), range(200))
    values = np.where(np.arange(200) < 100, 1.0, -1.0)
    assert (~SparseEvolution(drop_fraction=0.29).prune(before, values)).sum() == 58


@pytest.mark.parametrize("ranking", ["signed", "magnitude"])
@given(st.integers(0, 50), FRACTIONS)
def test_exactly_as_many_regrow_in_the_same_tensor(ranking, seed, fraction):
    algorithm = engine(ROOMY, [SparseEvolution(drop_fraction=fraction, ranking=ranking)], seed=seed)
    state = algorithm.start(0.8)
    _, got = algorithm.update(state, normal_values(state.topology, seed))
    assert got.grown.tolist() == got.pruned.tolist()
    assert got.after.counts.tolist() == state.topology.counts.tolist()
    assert (got.values[got.grown_slots] == 0).all()


@given(topologies(), st.data())
def test_a_tensor_too_full_to_regrow_keeps_its_number_of_weights(before, data):
    values = data.draw(values_of(before))
    algorithm = engine(before.layout, [SparseEvolution(drop_fraction=0.5)])
    state = algorithm.start_at(before)
    pruned = int((~SparseEvolution(drop_fraction=0.5).prune(before, values)).sum())
    assume(pruned <= before.room.sum())
    _, got = algorithm.update(state, values)
    assert got.after.size == before.size
    assert (got.grown >= np.minimum(got.pruned, before.room)).all()


@pytest.mark.parametrize(("start", "counts"), [("er", erdos_renyi), ("erk", erdos_renyi_kernel), ("uniform", uniform)])
def test_the_start_distribution_is_an_option(start, counts):
    state = engine(ROOMY, [SparseEvolution(start=start)]).start(0.9)
    assert state.topology.counts.tolist() == counts(ROOMY, 0.9).tolist()


@given(st.integers(0, 20), st.integers(2, 200))
def test_a_number_to_drop_is_dropped_exactly_and_shared_in_proportion_to_the_weights(seed, count):
    algorithm = engine(ROOMY, [SparseEvolution(drop_fraction=count, ranking="magnitude", start="uniform")], seed=seed)
    state = algorithm.start(0.5)
    counts = state.topology.counts
    _, got = algorithm.update(state, normal_values(state.topology, seed))
    assert got.pruned_count == count
    assert (abs(got.pruned - count * counts / counts.sum()) < 1).all()
    assert got.grown.tolist() == got.pruned.tolist()
    signed = SparseEvolution(drop_fraction=count).prune(state.topology, normal_values(state.topology, seed))
    assert count - 2 * len(counts) < (~signed).sum() <= count


def test_a_number_to_drop_that_is_not_below_that_of_the_weights_is_refused_at_the_start():
    size = engine(ROOMY, []).start(0.5).topology.size
    for start in (lambda one: one.start(0.5), lambda one: one.start_at(engine(ROOMY, []).start(0.5).topology)):
        with pytest.raises(InputError, match=f"drop {size} weights an update, but there are only {size}"):
            start(engine(ROOMY, [SparseEvolution(drop_fraction=size, start="uniform")]))


def test_the_defaults_are_the_originals():
    default = SparseEvolution()
    assert (default.drop_fraction, default.ranking, default.start) == (0.3, "signed", "er")
    assert default.schedule == Every(epochs=1)


def test_updates_follow_the_end_of_each_epoch():
    clocks = [Clock(step=step, steps_per_epoch=7, total_steps=28) for step in range(29)]
    assert [clock.step for clock in clocks if SparseEvolution().update_due(clock)] == [7, 14, 21, 28]


@pytest.mark.parametrize(
    "arguments",
    [
        {"drop_fraction": -0.1},
        {"drop_fraction": 1.0},
        {"drop_fraction": 20.5},
        {"drop_fraction": float("inf")},
        {"drop_fraction": float("nan")},
        {"ranking": "random"},
        {"start": "dense"},
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|no start distribution named 'dense'"):
        SparseEvolution(**arguments)
