"""SET as the paper has it: the smallest positive and the smallest negative weights go, tensor by tensor."""

from decimal import Decimal

import numpy as np
import pytest
from engine_examples import engine, normal_values, topologies, topology, values_of
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsecore.clock import Clock
from sparsecore.distributions import erdos_renyi, erdos_renyi_kernel, uniform
from sparsecore.layout import Layout
from sparsecore.schedules import Every
from sparsecore_set import SparseEvolution

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
FRACTIONS = st.sampled_from([0.0, 0.1, 0.138, 0.29, 0.3, 0.5, 0.58, 0.99])


def closest_to_zero(entries, fraction):
    """(magnitude, position) pairs: the positions of the fraction that comes first in order."""
    count = int(Decimal(str(fraction)) * len(entries))
    return {position for _, position in sorted(entries)[:count]}


def expected_drops(before, values, fraction, ranking):
    dropped = set()
    for name in before.layout.names:
        slots = before.slots(name)
        entries = list(zip(values[slots].tolist(), before.positions[slots].tolist(), strict=True))
        if ranking == "signed":
            dropped |= closest_to_zero([(value, position) for value, position in entries if value > 0], fraction)
            dropped |= closest_to_zero([(-value, position) for value, position in entries if value < 0], fraction)
        else:
            dropped |= closest_to_zero([(abs(value), position) for value, position in entries], fraction)
    return dropped


@pytest.mark.parametrize("ranking", ["signed", "magnitude"])
@given(topologies(), st.data(), FRACTIONS)
def test_each_tensor_drops_the_fraction_closest_to_zero(ranking, before, data, fraction):
    values = data.draw(values_of(before))
    kept = SparseEvolution(drop_fraction=fraction, ranking=ranking).prune(before, values)
    dropped = set(before.positions[~kept].tolist())
    assert dropped == expected_drops(before, values, fraction, ranking)


def test_the_most_negative_weights_stay():
    before = topology(Layout.of({"w": (100,)}), range(8))
    values = np.array([-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0])
    kept = SparseEvolution(drop_fraction=0.5).prune(before, values)
    assert values[~kept].tolist() == [-2.0, -1.0, 1.0, 2.0]


def test_signs_are_ranked_apart_and_magnitudes_together():
    before = topology(Layout.of({"w": (100,)}), range(8))
    values = np.array([-4.0, -3.0, -2.5, -2.0, 0.1, 0.2, 0.3, 0.4])
    signed = SparseEvolution(drop_fraction=0.5).prune(before, values)
    magnitude = SparseEvolution(drop_fraction=0.5, ranking="magnitude").prune(before, values)
    assert values[~signed].tolist() == [-2.5, -2.0, 0.1, 0.2]
    assert values[~magnitude].tolist() == [0.1, 0.2, 0.3, 0.4]


def test_the_fraction_is_the_decimal_that_was_written():
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
def test_where_a_tensor_is_too_full_to_regrow_the_number_of_weights_holds_all_the_same(before, data):
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
        {"drop_fraction": float("nan")},
        {"ranking": "random"},
        {"start": "dense"},
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        SparseEvolution(**arguments)
