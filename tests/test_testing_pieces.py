"""Generators draw valid examples and reach every corner; check results are what they say."""

import json

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS
from engine_oracles import fair_shares as other_fair_shares
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from sparsecore import InputError, Randomness, hookimpl, random_topology
from sparsecore.engine.position_validation import topology_error
from sparsecore.engine.schedules import Amount, Every, Piecewise, Schedule, as_amount, as_schedule
from sparsecore.testing import clocks, gradients, hyperparameters, topologies, values
from sparsecore.testing.counterexamples import rows
from sparsecore.testing.promises import Promise, expect
from sparsecore.testing.scenarios import from_json, scenarios
from sparsecore.testing.search import Status, check_example, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.strategy_promises.updates import exact_shares
from sparsecore.testing.subjects import StrategySubject
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.static import Static


def reaches(strategy, condition):
    """Return whether hypothesis finds an example that fulfils the condition."""
    quick = settings(max_examples=300, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    try:
        find(strategy, condition, settings=quick)
    except NoSuchExample:
        return False
    return True


@given(st.data())
def test_generated_topologies_are_valid_and_values_and_gradients_finite(data):
    topology = data.draw(topologies())
    assert topology_error(topology, topology.layout) is None
    vector = data.draw(values(topology=topology, dtype="float32"))
    assert (vector.shape, vector.dtype) == ((topology.size,), np.float32)
    dense = data.draw(gradients(layout=topology.layout))
    assert [len(dense[name]) for name in topology.layout.names] == list(topology.layout.sizes)
    assert all(np.isfinite(each).all() for each in (vector, *dense.values()))


@given(clocks())
def test_generated_clocks_are_before_the_end_of_the_run(clock):
    assert not clock.has_ended
    assert 0 <= clock.updates <= clock.step


@pytest.mark.parametrize(
    "corner",
    [
        lambda topology: topology.layout.size == 1,
        lambda topology: 1 in topology.layout.sizes and len(topology.layout) > 1,
        lambda topology: len(topology.layout) == 5,
        lambda topology: not topology.room.any() and topology.size > 9,
        lambda topology: (topology.room == 1).any() and topology.size > 9,
        lambda topology: (topology.counts == 1).all() and topology.layout.size > 40,
        lambda topology: list(topology.layout.names) != sorted(topology.layout.names),
        lambda topology: any(len(shape) == 4 for shape in topology.layout.shapes),
    ],
    ids=["one position", "a tensor of one", "many tensors", "full", "nearly full", "nearly empty", "order", "kernels"],
)
def test_generated_topologies_reach_every_corner_case(corner):
    assert reaches(topologies(), corner)


@pytest.mark.parametrize(
    "corner",
    [
        lambda vector: len(set(np.abs(vector).tolist())) < len(vector) // 2,
        lambda vector: (np.abs(vector) == 0.25).all(),
        lambda vector: (np.signbit(vector) & (vector == 0)).any() and (~np.signbit(vector) & (vector == 0)).any(),
        lambda vector: ((vector != 0) & (np.abs(vector) < np.finfo(vector.dtype).tiny)).any(),
        lambda vector: (vector < 0).all(),
        lambda vector: vector.dtype == np.float64,
    ],
    ids=["ties", "one magnitude", "zeros of both signs", "denormal", "one sign", "double"],
)
def test_generated_values_reach_every_corner_case(corner):
    topology = random_topology(TWO_TENSORS, [10, 10], Randomness(0), ARRAYS)
    assert reaches(values(topology=topology), corner)


@attrs.frozen
class Everything:
    whole: int = attrs.field(validator=[attrs.validators.ge(2), attrs.validators.lt(5)])
    share: float = attrs.field(validator=attrs.validators.and_(attrs.validators.gt(0), attrs.validators.le(1)))
    flag: bool
    word: str = attrs.field(validator=attrs.validators.in_(["one", "two"]))
    perhaps: float | None = attrs.field(validator=attrs.validators.optional(attrs.validators.ge(0)))
    schedule: Schedule = attrs.field(default=Piecewise({0: 0.5}), converter=as_schedule)
    when: Every = Every(steps=7)
    target: Amount = attrs.field(default=Amount(3), converter=as_amount)
    free: float = 2.5
    other: object = "kept"

    def __attrs_post_init__(self):
        if self.whole == 3 and self.flag:
            raise InputError("what two fields do not admit together")


@given(hyperparameters(Everything))
def test_hyperparameters_are_within_the_bounds_of_their_validators(drawn):
    assert drawn.whole in {2, 3, 4}
    assert not (drawn.whole == 3 and drawn.flag)
    assert 0 < drawn.share <= 1
    assert drawn.word in {"one", "two"}
    assert drawn.perhaps is None or drawn.perhaps >= 0
    assert drawn.schedule.lowest >= 0
    assert drawn.other == "kept"


def test_generated_hyperparameters_reach_every_class_of_admitted_values():
    assert reaches(hyperparameters(DeepRewiring), lambda drawn: drawn.scope == "tensor" and drawn.step_size is not None)
    assert reaches(hyperparameters(DynamicReallocation), lambda drawn: drawn.tolerance == 0)
    assert reaches(hyperparameters(Everything), lambda drawn: drawn.whole == 4 and drawn.perhaps is None)


@attrs.frozen
class Odd:
    table: dict


def test_a_field_that_cannot_be_drawn_and_has_no_default_is_named():
    with pytest.raises(TypeError, match="the field 'table' has no default"):
        hyperparameters(Odd)
    with pytest.raises(TypeError, match="those of an attrs class"):
        hyperparameters(int)


REWIRING = StrategySubject.of(hyperparameters(DeepRewiring))


@given(scenarios(REWIRING))
def test_a_scenario_is_read_back_from_its_text_bit_for_bit(scenario):
    again = from_json(scenario.to_json(), REWIRING.sample)
    assert again.to_json() == scenario.to_json()
    assert again.values.tobytes() == scenario.values.tobytes()
    assert again.positions.dtype == scenario.positions.dtype
    assert json.loads(scenario.to_json())["options"].keys() == {"DeepRewiring"}


whole = st.integers(0, 12)


@given(st.lists(st.tuples(whole, whole), min_size=1, max_size=5), st.data())
def test_fair_shares_agree_with_an_independent_definition(tensors, data):
    weights, room = ([pair[i] for pair in tensors] for i in (0, 1))
    total = data.draw(st.integers(0, sum(room)))
    assert exact_shares(total, weights, room) == other_fair_shares(total, weights, room)


@attrs.frozen(eq=False)
class Stops:
    """Raises in prune, so that other promises cannot be checked."""

    @hookimpl
    def prune(self):
        raise KeyError("nothing to prune")


@attrs.frozen(eq=False)
class Sometimes:
    """Breaks its promise in every second call."""

    calls: list = attrs.field(factory=list, init=False)

    def __deepcopy__(self, _):
        return self

    @hookimpl
    def prune(self, topology):
        self.calls.append(1)
        return topology.all() if len(self.calls) % 2 else np.zeros(3)


def promise(name):
    return next(promise for promise in STRATEGY_PROMISES if promise.name == name)


def test_an_error_breaks_one_promise_and_leaves_the_others_unchecked():
    subject = StrategySubject.of(Stops())
    result = check_promise(promise("no-errors"), subject, shrink=False)
    assert result.status is Status.BROKEN
    assert result.reason == "KeyError raised in the hook 'prune' of plugin 'Stops': 'nothing to prune'"
    assert {check_promise(promise(name), subject, examples=1).status for name in ("growth", "size")} == {
        Status.NOT_CHECKED
    }


def test_a_promise_that_breaks_occasionally_is_reported_as_broken():
    result = check_promise(promise("prune"), StrategySubject.of(Sometimes()))
    assert result.status is Status.BROKEN
    assert "broke a promise in 'prune'" in result.reason


def test_a_strategy_that_refuses_every_start_is_reported_as_refused():
    result = check_promise(promise("growth"), StrategySubject.of(DynamicReallocation()), examples=5)
    assert result.status is Status.REFUSED
    assert "dpr is to prune 20000 weights" in result.reason


def test_an_error_of_the_kit_itself_is_not_a_broken_promise():
    def fails(_, __):
        raise ZeroDivisionError("in the check")

    with pytest.raises(ZeroDivisionError):
        check_promise(Promise("own", "a check that fails", scenarios, fails), StrategySubject.of(Static()))


def test_the_counterexample_is_minimal():
    def few(_, scenario):
        expect(len(scenario.positions) < 3, "three weights or more")

    result = check_promise(Promise("few", "there are few weights", scenarios, few), StrategySubject.of(Static()))
    assert result.status is Status.BROKEN
    assert len(result.example.positions) == 3
    assert check_example(result.promise, StrategySubject.of(Static()), result.example).status is Status.BROKEN


def test_the_table_of_a_counterexample_equals_an_update_computed_by_hand():
    text = (
        '{"options":{"DynamicReallocation":{"target":1,"initial_threshold":0.5}},"layout":{"a":[2,2],"b":[2]},'
        '"positions":[0,2,4],"values":[0.75,0.25,-0.1],"dtype":"float32","gradients":{},'
        '"clock":{"step":0,"steps_per_epoch":1,"total_steps":9,"updates":0},'
        '"seed":0,"learning_rate":0.1,"noise":0,"sparsity":0.5}'
    )
    scenario = from_json(text, StrategySubject.of(DynamicReallocation(target=1)).sample)
    first, second = rows(scenario)
    # below 0.5 are 0.25 and -0.1; the latter is the last of its tensor, and stays; one weight grows, and a has 2 of 3
    # free positions
    assert first[:3] == ("a 2×2", "0:0.75 2:0.25", "0:0.75")
    assert second[:3] == ("b 2", "0:-0.1", "0:-0.1")
    assert sorted((first[3], second[3])) in [["1", "none"], ["3", "none"]]


def test_the_oracle_of_the_kit_agrees_with_that_of_the_engine_tests():
    from sparsecore.testing.subjects import oracle_arrays

    assert type(oracle_arrays()) is type(ARRAYS)


@attrs.frozen(eq=False)
class GrowsOccupied:
    """Grows where weights are active; prunes nothing."""

    @hookimpl
    def grow(self, occupied, counts):
        return occupied.positions[: counts.sum()]


def test_a_strategy_that_prunes_nothing_is_tried_above_pruning():
    assert check_promise(promise("growth"), StrategySubject.of(GrowsOccupied()), shrink=False).status is Status.BROKEN
