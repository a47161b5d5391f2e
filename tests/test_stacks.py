"""Stacks: the later plugin wins hook by hook, strategy states are each plugin's own, observers see everything."""

import attrs
import numpy as np
import pytest
from engine_examples import TWO_TENSORS, engine, normal_values, plugin

from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.schedules import Every
from sparsecore.engine.state import per_weight
from sparsecore.errors import PluginError
from sparsecore_strategies.dpr import DynamicReallocation, Threshold
from sparsecore_strategies.static import Static

DPR = DynamicReallocation(target=1, initial_threshold=0.3, schedule=Every(steps=1))


def note(seen, what):
    seen.append(what)


def test_the_later_plugin_wins_hook_by_hook():
    lowest = plugin(
        initial_values=lambda grown, values: np.full(grown.size, 7, values.dtype),
        prune=lambda topology: np.arange(topology.size) >= 5,
    )
    highest = plugin(initial_values=lambda grown, values: np.full(grown.size, 9, values.dtype))
    got = {}
    for name, stack in {"up": [lowest, highest], "down": [highest, lowest], "one": [lowest]}.items():
        algorithm = engine(TWO_TENSORS, {f"p{i}": each for i, each in enumerate(stack)})
        state = algorithm.start(0.8)
        _, reallocation = algorithm.update(state, np.ones(40))
        assert reallocation.pruned_count == 5
        got[name] = set(reallocation.values[reallocation.grown_slots].tolist())
    assert got == {"up": {9.0}, "down": {7.0}, "one": {7.0}}


def test_a_plugin_that_returns_none_defers_to_those_below():
    seven = plugin(prune=lambda topology: np.arange(topology.size) >= 7)
    algorithm = engine(TWO_TENSORS, {"seven": seven, "none": plugin(prune=lambda: None)})
    assert algorithm.update(algorithm.start(0.8), np.ones(40))[1].pruned_count == 7


@attrs.frozen(eq=False)
class Count:
    updates: int
    ages: object = per_weight()


@attrs.frozen(eq=False)
class CountingUpdates:
    """Remembers the number of updates and the age of every weight."""

    start: int

    @hookimpl
    def initial_strategy_state(self, topology):
        return Count(self.start, np.full(topology.size, self.start))

    @hookimpl
    def adjust(self, strategy_state):
        return attrs.evolve(strategy_state, updates=strategy_state.updates + 1)

    @hookimpl
    def remember(self, strategy_state):
        return attrs.evolve(strategy_state, ages=strategy_state.ages + 1)


def test_each_plugin_has_its_own_state():
    stack = {
        "dpr": DynamicReallocation(target=5, initial_threshold=0.5),
        "ten": CountingUpdates(10),
        "fifty": CountingUpdates(50),
    }
    algorithm = engine(TWO_TENSORS, stack)
    state = algorithm.start(0.8)
    after, reallocation = algorithm.update(state, normal_values(state.topology))
    assert set(after.strategy_states) == {"dpr", "ten", "fifty"}
    assert after.strategy_states["dpr"] == Threshold(0.25)
    for name, start in (("ten", 10), ("fifty", 50)):
        assert state.strategy_states[name].updates == start
        assert after.strategy_states[name].updates == start + 1
        grown = after.strategy_states[name].ages[reallocation.grown_slots]
        assert set(grown.tolist()) == {1}
        assert sorted(set(after.strategy_states[name].ages.tolist())) == [1, start + 1]


def test_a_plugin_that_uses_a_strategy_state_without_creating_it_is_refused():
    watcher = plugin(reallocated=lambda strategy_state: strategy_state)
    with pytest.raises(PluginError, match="'reallocated' of plugin 'watcher' takes strategy_state, but there is no"):
        engine(TWO_TENSORS, {"dpr": DPR, "watcher": watcher})


def test_the_steps_of_an_update_see_the_state_from_before_and_observers_the_one_from_after():
    seen = {}

    @attrs.frozen(eq=False)
    class Watching(CountingUpdates):
        @hookimpl
        def prune(self, strategy_state):
            seen["prune"] = strategy_state.updates

        @hookimpl
        def grow(self, strategy_state):
            seen["grow"] = strategy_state.updates

        @hookimpl
        def reallocated(self, strategy_state, clock):
            seen["reallocated"] = strategy_state.updates
            seen["clock"] = clock.updates

    algorithm = engine(TWO_TENSORS, {"watching": Watching(1)})
    algorithm.update(algorithm.start(0.8), np.ones(40))
    assert seen == {"prune": 1, "grow": 1, "reallocated": 2, "clock": 1}


@pytest.mark.parametrize("regrow", [False, True])
def test_growth_sees_the_topology_before_the_update_and_what_pruning_has_left(regrow):
    seen = {}
    observer = plugin(grow=lambda topology, kept, occupied: seen.update(was=topology, left=kept, taken=occupied))
    algorithm = engine(TWO_TENSORS, {"dpr": DPR, "observer": observer}, regrow_pruned=regrow)
    state = algorithm.start(0.8)
    _, got = algorithm.update(state, normal_values(state.topology))
    assert 0 < got.pruned_count < 40
    was, left, taken = (seen[name].positions.tolist() for name in ("was", "left", "taken"))
    assert was == state.topology.positions.tolist()
    assert left == state.topology.positions[got.survives].tolist()
    assert taken == (left if regrow else was)


def test_observers_see_every_update_of_any_strategy():
    seen = []
    low, high = (plugin(reallocated=lambda reallocation: note(seen, reallocation)) for _ in range(2))
    algorithm = engine(TWO_TENSORS, {"low": low, "dpr": DPR, "high": high})
    state = algorithm.start(0.8)
    values = normal_values(state.topology)
    wanted = []
    for _ in range(4):
        advance = algorithm.advance(state, values)
        state, values = advance.state, advance.values
        wanted += [advance.reallocation] * 2
    assert seen == wanted


def test_every_engine_has_plugins_of_its_own():
    seven = plugin(prune=lambda topology: np.arange(topology.size) >= 7)
    one, other = engine(TWO_TENSORS, {"p": seven}), engine(TWO_TENSORS, {"p": Static()})
    assert one.update(one.start(0.8), np.ones(40))[1].pruned_count == 7
    assert other.update(other.start(0.8), np.ones(40))[1].pruned_count == 0


def test_one_plugin_may_serve_in_two_engines():
    for _ in range(2):
        algorithm = engine(TWO_TENSORS, {"dpr": DPR})
        state = algorithm.start(0.8)
        assert algorithm.update(state, normal_values(state.topology))[1].pruned_count > 0
