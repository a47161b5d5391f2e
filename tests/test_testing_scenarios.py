"""Scenarios are drawn anywhere in a run, after updates, and with tensors beyond 32 bits."""

from random import Random

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.errors import NoSuchExample
from mutants_of_strategies import MomentumGrowing, Sound

from sparsecore import hookimpl
from sparsecore.errors import InputError, NoRoomError
from sparsecore.testing.peak_memory import needs_memory_for_weights_only
from sparsecore.testing.runs import make_engine, replay, run_update, snapshot_before_update
from sparsecore.testing.scenarios import from_json, scenarios
from sparsecore.testing.search import Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import StrategySubject

SOUND, GROWING_BY_MOMENTUM = StrategySubject.of(Sound()), StrategySubject.of(MomentumGrowing())
FEW = settings(max_examples=15, database=None, suppress_health_check=list(HealthCheck), deadline=None)


def quick(examples):
    every = list(HealthCheck)
    return settings(max_examples=examples, database=None, phases=[Phase.generate], suppress_health_check=every)


def reaches(subject, condition, searches=20):
    # hypothesis mostly varies the first examples of a search, so that many short searches see more than a long one
    for seed in range(searches):
        try:
            find(scenarios(subject), condition, settings=quick(50), random=Random(seed))
        except NoSuchExample:
            continue
        return True
    return False


@pytest.mark.parametrize(
    "corner",
    [
        lambda scenario: scenario.clock.step > 10_000,
        lambda scenario: scenario.clock.step + 1 == scenario.clock.total_steps,
        lambda scenario: scenario.clock.step < (scenario.clock.total_steps or 0) // 10,
        lambda scenario: scenario.clock.total_steps is None and scenario.previous_updates > 0,
        lambda scenario: scenario.previous_updates >= 6,
        lambda scenario: scenario.layout.size > 2**31 and scenario.positions.max() > 2**31,
        lambda scenario: (
            scenario.layout.size > 2**31 and scenario.layout.names[0] == "vast" and len(scenario.layout) > 2
        ),
    ],
    ids=["late", "last step", "early", "unknown end", "after updates", "vast", "vast first"],
)
def test_scenarios_reach_every_corner_of_a_run(corner):
    assert reaches(SOUND, corner)


@FEW
@given(scenarios(SOUND))
def test_a_scenario_is_at_its_clock_after_its_previous_updates_with_its_values(scenario):
    engine = make_engine(scenario)
    snapshot = snapshot_before_update(engine, scenario)
    updates = [reallocation for _, reallocation in replay(engine, scenario) if reallocation]
    assert len(updates) <= scenario.previous_updates
    assert snapshot.state.strategy_states["Sound"].updates == len(updates)
    assert snapshot.state.clock.step <= scenario.clock.step
    if len(updates) == scenario.previous_updates:
        assert snapshot.state.clock == scenario.clock
    topology = snapshot.state.topology
    for name in topology.layout.names:
        first, last = (scenario.layout.offsets[scenario.layout.index(name) + i] for i in (0, 1))
        own = scenario.values[(scenario.positions >= first) & (scenario.positions < last)]
        assert (
            snapshot.values[topology.slots(name)].tolist()
            == np.resize(own, len(snapshot.values[topology.slots(name)])).tolist()
        )


@FEW
@given(scenarios(GROWING_BY_MOMENTUM))
def test_distinct_gradients_are_observed_before_the_checked_update(scenario):
    strategy_state = snapshot_before_update(make_engine(scenario), scenario).state.strategy_states["MomentumGrowing"]
    if strategy_state.momentum.any():  # steps without room for the update are left out
        assert scenario.previous_updates > 0
    if strategy_state.momentum.any() and len(strategy_state.momentum) > 1:
        assert len(set(strategy_state.momentum.tolist())) > 1


def can_be_updated(scenario):
    try:
        run_update(scenario)
    except NoRoomError:
        return False
    return True


def test_a_scenario_with_previous_updates_is_read_back_from_its_text():
    scenario = find(
        scenarios(GROWING_BY_MOMENTUM),
        lambda scenario: scenario.previous_updates > 1 and len(scenario.layout) > 1 and can_be_updated(scenario),
        settings=quick(400),
    )
    again = from_json(scenario.to_json(), GROWING_BY_MOMENTUM.sample)
    assert again.previous_updates == scenario.previous_updates
    assert run_update(again).state.topology.positions.tolist() == run_update(scenario).state.topology.positions.tolist()


@attrs.frozen(eq=False)
class Dense:
    """Makes an array with an entry for each position."""

    @hookimpl
    def grow(self, occupied, counts):
        free = [
            np.flatnonzero(~occupied.mask(name).ravel())[:count] + first
            for name, first, count in zip(occupied.layout.names, occupied.layout.offsets, counts, strict=False)
        ]
        return occupied.arrays.from_numpy(np.concatenate(free).astype(occupied.layout.position_dtype))


def test_a_strategy_with_one_entry_per_position_gets_no_huge_tensor():
    assert needs_memory_for_weights_only(SOUND.sample)
    subject = StrategySubject.of(Dense())
    assert not needs_memory_for_weights_only(subject.sample)
    assert not reaches(subject, lambda scenario: scenario.layout.size > 2**31, searches=1)
    assert not reaches(GROWING_BY_MOMENTUM, lambda scenario: scenario.layout.size > 2**31, searches=1)


@attrs.frozen
class UpdateCount:
    """The number of updates so far."""

    updates: int = 0


@attrs.frozen(eq=False)
class Late:
    """Returns an invalid result of prune from a certain update on."""

    updates: int

    @hookimpl
    def initial_strategy_state(self):
        return UpdateCount()

    @hookimpl
    def prune(self, topology, strategy_state):
        return topology.all() if strategy_state.updates < self.updates else np.zeros(3)

    @hookimpl
    def remember(self, strategy_state):
        return UpdateCount(strategy_state.updates + 1)


@pytest.mark.parametrize("updates", [3, 8])
def test_defects_that_appear_after_several_updates_are_found(updates):
    (promise,) = (promise for promise in STRATEGY_PROMISES if promise.name == "prune")
    result = check_promise(promise, StrategySubject.of(Late(updates)), shrink=False)
    assert result.status is Status.BROKEN
    assert result.example.previous_updates >= updates


def test_a_scenario_without_a_known_end_is_read_back_from_its_text():
    scenario = find(scenarios(SOUND), lambda scenario: scenario.clock.total_steps is None, settings=quick(1000))
    again = from_json(scenario.to_json(), SOUND.sample)
    assert again.clock == scenario.clock
    assert '"total_steps":null' in scenario.to_json()


@attrs.frozen(eq=False)
class Refusing:
    """Refuses to prune where the end of the run is not known, or from the tenth step on."""

    only_unknown_ends: bool

    @hookimpl
    def prune(self, topology, clock):
        if clock.total_steps is None if self.only_unknown_ends else clock.step > 10:
            raise InputError("give the total number of steps")
        return topology.all()


@pytest.mark.slow
@pytest.mark.parametrize(("only_unknown_ends", "status"), [(True, Status.KEPT), (False, Status.BROKEN)])
def test_a_strategy_may_refuse_only_runs_without_a_known_end(only_unknown_ends, status):
    (promise,) = (promise for promise in STRATEGY_PROMISES if promise.name == "no-errors")
    assert check_promise(promise, StrategySubject.of(Refusing(only_unknown_ends))).status is status
