"""DPR follows the paper."""

from itertools import pairwise

import numpy as np
import pytest
from engine_examples import TWO_TENSORS, engine, normal_values, topology
from engine_oracles import adjusted_threshold
from hypothesis import example, given
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.dpr import DynamicReallocation, Threshold


def adjusted(strategy, pruned, weights=100_000, threshold=1e-3):
    of = topology(Layout.of({"w": (weights,)}), range(weights))
    return strategy.adjust(np.array([pruned], np.int64), of, Threshold(threshold)).threshold


def test_the_defaults_are_the_papers():
    dpr = DynamicReallocation()
    assert (dpr.target.given, dpr.tolerance, dpr.initial_threshold) == (20_000, 0.1, 1e-3)
    assert dpr.schedule == Every(steps={0: 100, 25: 200, 80: 400, 140: 800}, until_epoch=190)


def test_the_papers_schedule_has_367_reallocations():
    dpr = DynamicReallocation()
    due = [
        step
        for step in range(200 * 500 + 1)
        if dpr.update_due(Clock(step=step, steps_per_epoch=500, total_steps=200 * 500))
    ]
    assert len(due) == 367
    assert due[:2] == [100, 200]
    assert {100, 200, 400, 800} == {later - earlier for earlier, later in pairwise(due)}
    assert due[-1] < 190 * 500


@pytest.mark.parametrize(
    ("pruned", "factor"),
    [(0, 2), (17_999, 2), (18_000, 1), (20_000, 1), (22_000, 1), (22_001, 0.5), (100_000, 0.5)],
)
def test_the_threshold_doubles_halves_or_stays_at_the_boundaries_of_the_paper(pruned, factor):
    assert adjusted(DynamicReallocation(), pruned) == 1e-3 * factor


@given(st.integers(0, 99), st.integers(1, 30_000), st.sampled_from([-1, 1]), st.integers(-1, 1), st.integers(0, 10**5))
@example(15, 100, 1, 0, 115)  # in floats 1.15·100 is below 115
@example(18, 2000, -1, 0, 1640)  # in floats 0.82·2000 is above 1640
def test_the_threshold_follows_the_definition_with_the_tolerance_as_a_decimal(hundredths, target, side, off, anywhere):
    tolerance = float(f"0.{hundredths:02d}")
    boundary = target * (100 + side * hundredths) // 100
    strategy = DynamicReallocation(target=target, tolerance=tolerance)
    for pruned in (max(0, boundary + off), anywhere):
        assert adjusted(strategy, pruned) == adjusted_threshold(1e-3, pruned, target, tolerance)


def test_a_share_of_all_weights_may_be_the_target():
    # 14% of 50 weights are 7, ±0.7
    strategy = DynamicReallocation(target="14%")
    assert [adjusted(strategy, pruned, weights=50) / 1e-3 for pruned in (6, 7, 8)] == [2, 1, 0.5]


@pytest.mark.parametrize("target", [40, 41, 10**9])
def test_a_target_of_all_weights_or_more_is_refused_with_both_numbers(target):
    with pytest.raises(InputError, match=f"prune {target} weights an update, but there are only 40"):
        engine(TWO_TENSORS, [DynamicReallocation(target=target)]).start(0.8)


def test_a_target_of_all_weights_but_one_is_accepted():
    engine(TWO_TENSORS, [DynamicReallocation(target=39)]).start(0.8)


def test_one_threshold_holds_for_all_tensors_and_both_signs():
    before = topology(TWO_TENSORS, [0, 1, 2, 3, 100, 101, 102, 103])
    values = np.array([0.1, -0.1, 0.5, -0.5, 0.49, -0.49, 2.0, -2.0], np.float32)
    algorithm = engine(TWO_TENSORS, [DynamicReallocation(target=4, initial_threshold=0.5)])
    after, got = algorithm.update(algorithm.start_at(before), values)
    assert got.pruned_positions.tolist() == [0, 1, 100, 101]
    assert after.strategy_states["DynamicReallocation"] == Threshold(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_exact_zeros_are_pruned_however_small_the_threshold_has_become(dtype, zero):
    values = np.array([zero, 1.0, 0.5, zero], dtype)
    kept = DynamicReallocation(target=1).prune(values, Threshold(5e-324))
    assert kept.tolist() == [False, True, True, False]


def test_weights_move_between_tensors_in_proportion_to_the_survivors():
    layout = Layout.of({"weak": (1000,), "strong": (1000,)})
    before = topology(layout, [*range(100), *range(1000, 1100)])
    values = np.where(np.arange(200) < 80, 0.01, 1.0)  # the weak keeps 20 of 100, the strong all 100
    algorithm = engine(layout, [DynamicReallocation(target=80, initial_threshold=0.1)])
    _, got = algorithm.update(algorithm.start_at(before), values)
    assert got.pruned.tolist() == [80, 0]
    assert got.grown.tolist() == [13, 67]
    assert got.after.counts.tolist() == [33, 167]


def test_grown_weights_start_at_zero():
    algorithm = engine(TWO_TENSORS, [DynamicReallocation(target=10, initial_threshold=0.5)])
    state = algorithm.start(0.8)
    _, got = algorithm.update(state, normal_values(state.topology))
    assert got.pruned_count > 5
    assert (got.values[got.grown_slots] == 0).all()
    assert (got.values != 0).sum() == 40 - got.pruned_count


def test_the_threshold_converges_to_the_target():
    layout = Layout.of({"w": (200, 100), "v": (100, 100)})
    algorithm = engine(layout, [DynamicReallocation(target=300, schedule=Every(steps=1))])
    state = algorithm.start(0.9)
    for step in range(30):
        advance = algorithm.advance(state, normal_values(state.topology, step))
        state = advance.state
    assert 300 / 2 < advance.reallocation.pruned_count < 300 * 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": 0},
        {"target": "200%"},
        {"tolerance": -0.1},
        {"tolerance": 1.0},
        {"tolerance": float("nan")},
        {"initial_threshold": 0.0},
        {"initial_threshold": -1.0},
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"given|must be"):
        DynamicReallocation(**arguments)
