"""What the kit puts a strategy into: moments anywhere in a run, after updates, with tensors beyond 32 bits."""

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.errors import NoSuchExample
from mutants_of_strategies import Sound, Tracing

from sparsecore import hookimpl
from sparsecore.errors import NoRoomError
from sparsecore.testing.frugality import is_frugal
from sparsecore.testing.judging import Outcome, judge
from sparsecore.testing.runs import begun, engine, past, updated
from sparsecore.testing.scenes import from_json, scenes
from sparsecore.testing.stacks import Subject
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES

SOUND, TRACING = Subject.of(Sound()), Subject.of(Tracing())
FEW = settings(max_examples=15, database=None, suppress_health_check=list(HealthCheck), deadline=None)


def quick(examples):
    every = list(HealthCheck)
    return settings(max_examples=examples, database=None, phases=[Phase.generate], suppress_health_check=every)


def reaches(subject, condition, examples=1000):
    try:
        find(scenes(subject), condition, settings=quick(examples))
    except NoSuchExample:
        return False
    return True


@pytest.mark.parametrize(
    "corner",
    [
        lambda scene: scene.clock.step > 10_000,
        lambda scene: scene.clock.step + 1 == scene.clock.total_steps,
        lambda scene: scene.clock.step < scene.clock.total_steps // 10,
        lambda scene: scene.past >= 6,
        lambda scene: scene.layout.size > 2**31 and scene.positions.max() > 2**31,
        lambda scene: scene.layout.size > 2**31 and scene.layout.names[0] == "vast" and len(scene.layout) > 2,
    ],
    ids=["late", "last step", "early", "after updates", "vast", "vast first"],
)
def test_scenes_reach_every_corner_of_a_run(corner):
    assert reaches(SOUND, corner)


@FEW
@given(scenes(SOUND))
def test_a_scene_is_at_its_clock_after_its_past_with_its_values(scene):
    algorithm = engine(scene)
    moment = begun(algorithm, scene)
    updates = [reallocation for _, reallocation in past(algorithm, scene) if reallocation]
    assert len(updates) <= scene.past
    assert moment.state.strategy_states["Sound"].updates == len(updates)
    assert moment.state.clock.step <= scene.clock.step
    if len(updates) == scene.past:
        assert moment.state.clock == scene.clock
    topology = moment.state.topology
    for name in topology.layout.names:
        first, last = (scene.layout.offsets[scene.layout.index(name) + i] for i in (0, 1))
        own = scene.values[(scene.positions >= first) & (scene.positions < last)]
        assert (
            moment.values[topology.slots(name)].tolist()
            == np.resize(own, len(moment.values[topology.slots(name)])).tolist()
        )


@FEW
@given(scenes(TRACING))
def test_gradients_have_been_seen_before_the_judged_update_and_no_two_alike(scene):
    strategy_state = begun(engine(scene), scene).state.strategy_states["Tracing"]
    if strategy_state.momentum.any():  # where there is no room in the past, a step is left out
        assert scene.past > 0
    if strategy_state.momentum.any() and len(strategy_state.momentum) > 1:
        assert len(set(strategy_state.momentum.tolist())) > 1


def can_be_updated(scene):
    try:
        updated(scene)
    except NoRoomError:
        return False
    return True


def test_a_scene_with_a_past_is_written_down_and_comes_back():
    scene = find(
        scenes(TRACING),
        lambda scene: scene.past > 1 and len(scene.layout) > 1 and can_be_updated(scene),
        settings=quick(400),
    )
    again = from_json(scene.to_json(), TRACING.sample)
    assert again.past == scene.past
    assert updated(again).state.topology.positions.tolist() == updated(scene).state.topology.positions.tolist()


@attrs.frozen(eq=False)
class Dense:
    """It makes something for each position."""

    @hookimpl
    def grow(self, occupied, counts):
        free = [
            np.flatnonzero(~occupied.mask(name).ravel())[:count] + first
            for name, first, count in zip(occupied.layout.names, occupied.layout.offsets, counts, strict=False)
        ]
        return occupied.arrays.from_numpy(np.concatenate(free).astype(occupied.layout.position_dtype))


def test_who_takes_memory_for_each_position_is_given_no_vast_tensor():
    assert is_frugal(SOUND.sample)
    subject = Subject.of(Dense())
    assert not is_frugal(subject.sample)
    assert not reaches(subject, lambda scene: scene.layout.size > 2**31, 40)
    assert not reaches(TRACING, lambda scene: scene.layout.size > 2**31, 40)


@attrs.frozen
class HowMany:
    """Updates so far."""

    updates: int = 0


@attrs.frozen(eq=False)
class Late:
    """From its so manieth update on it answers nonsense; before that nothing is wrong with it."""

    updates: int

    @hookimpl
    def initial_strategy_state(self):
        return HowMany()

    @hookimpl
    def prune(self, topology, strategy_state):
        return topology.all() if strategy_state.updates < self.updates else np.zeros(3)

    @hookimpl
    def remember(self, strategy_state):
        return HowMany(strategy_state.updates + 1)


@pytest.mark.parametrize("updates", [3, 8])
def test_what_breaks_only_after_some_updates_is_found(updates):
    (promise,) = (promise for promise in STRATEGY_PROMISES if promise.name == "prune")
    verdict = judge(promise, Subject.of(Late(updates)))
    assert verdict.outcome is Outcome.BROKEN
    assert verdict.example.past >= updates
