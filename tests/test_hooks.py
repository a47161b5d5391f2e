"""pluggy's silent traps are errors, in sentences that name the plugin and the hook."""

import attrs
import numpy as np
import pytest
from engine_examples import TWO_TENSORS, engine

from sparsecore.engine.hooks import hookimpl, hookspec
from sparsecore.errors import InputError, PluginError
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.static import Static


class Unmarked:
    def prune(self, values):
        return values > 0

    @hookimpl
    def update_due(self):
        return True


class Misspelt:
    @hookimpl
    def intial_values(self, values):
        return values


class Unlike:
    @hookimpl
    def zzz(self):
        return None


class UnknownArgument:
    @hookimpl
    def prune(self, weights):
        return weights > 0


class WithDefault:
    @hookimpl
    def prune(self, values, strategy_state=None):
        return values > (0 if strategy_state is None else strategy_state)


class KeywordOnly:
    @hookimpl
    def prune(self, *, values):
        return values > 0


class AnyArguments:
    @hookimpl
    def prune(self, *everything):
        return everything


class AnyKeywords:
    @hookimpl
    def prune(self, **everything):
        return everything


@attrs.define
class Mutable:
    threshold: float = 0.1

    @hookimpl
    def prune(self, values):
        return abs(values) > self.threshold


class NoHook:
    def something_else(self):
        return None


class Wrapper:
    @hookimpl(wrapper=True)
    def prune(self):
        return (yield)


class OldWrapper:
    @hookimpl(hookwrapper=True)
    def prune(self):
        yield


class MarkedAsSpecification:
    @hookspec
    def prune(self, values):
        return values > 0


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (Unmarked(), r"Unmarked.prune of plugin 'mine' has the name of a hook .* put @hookimpl above"),
        (MarkedAsSpecification(), r"MarkedAsSpecification.prune of plugin 'mine' .* put @hookimpl above"),
        (Misspelt(), r"'intial_values' of plugin 'mine' is no hook; .*; did you mean 'initial_values'\?"),
        (Unlike(), r"'zzz' of plugin 'mine' is no hook; the hooks are adjust, allocate, .*update_due, young_weights$"),
        (
            UnknownArgument(),
            r"'prune' of plugin 'mine' takes weights; .* topology, values, gradient, .*, clock, .*",
        ),
        (AnyArguments(), r"'prune' of plugin 'mine' takes \*everything"),
        (AnyKeywords(), r"'prune' of plugin 'mine' takes \*\*everything"),
        (WithDefault(), r"'prune' of plugin 'mine' gives strategy_state a default or makes it keyword-only"),
        (KeywordOnly(), r"'prune' of plugin 'mine' gives values a default or makes it keyword-only"),
        (DynamicReallocation, r"'mine' is the class DynamicReallocation; give an instance"),
        (Mutable(), r"'mine' is mutable and compared by value; .* Mutable with @attrs.frozen\(eq=False\)"),
        (NoHook(), r"'mine' of type NoHook implements no hook; the hooks are adjust, "),
        (object(), r"'mine' of type object implements no hook"),
        ("dpr", r"'mine' of type str implements no hook"),
        (Wrapper(), r"'prune' of plugin 'mine' is marked wrapper"),
        (OldWrapper(), r"'prune' of plugin 'mine' is marked hookwrapper"),
    ],
)
def test_a_plugin_that_pluggy_would_silently_not_call_is_refused_with_a_sentence(strategy, sentence):
    with pytest.raises(PluginError, match=sentence):
        engine(TWO_TENSORS, {"mine": strategy})


@attrs.frozen
class FrozenByValue:
    keep: int = 35

    @hookimpl
    def prune(self, topology):
        return np.arange(topology.size) < self.keep


@attrs.frozen(eq=False)
class FrozenByIdentity(FrozenByValue):
    pass


class Plain:
    keep = 35
    prune = FrozenByValue.prune


class OnTheClass:
    @staticmethod
    @hookimpl
    def prune(topology):
        return np.arange(topology.size) < 35


@pytest.mark.parametrize("strategy", [FrozenByValue(), FrozenByIdentity(), Plain(), OnTheClass()])
def test_every_usual_way_to_write_a_plugin_works(strategy):
    algorithm = engine(TWO_TENSORS, [strategy])
    assert algorithm.update(algorithm.start(0.8), np.ones(40))[1].pruned_count == 5


def test_equal_plugins_may_be_stacked():
    algorithm = engine(TWO_TENSORS, {"one": FrozenByValue(), "other": FrozenByValue()})
    assert algorithm.update(algorithm.start(0.8), np.ones(40))[1].pruned_count == 5


def test_a_strategy_with_an_unhashable_hyperparameter_works():
    @attrs.frozen
    class WithList:
        keep: list

        @hookimpl
        def prune(self, topology):
            return np.arange(topology.size) < self.keep[0]

    algorithm = engine(TWO_TENSORS, [WithList([30])])
    assert algorithm.update(algorithm.start(0.8), np.ones(40))[1].pruned_count == 10


def test_two_strategies_of_one_class_need_names():
    with pytest.raises(InputError, match=r"two strategies of one class .*Static, Static.*distinct names"):
        engine(TWO_TENSORS, [Static(), Static()])


def test_the_plugin_at_the_bottom_cannot_be_replaced():
    with pytest.raises(InputError, match="'defaults' is the name of the plugin at the bottom"):
        engine(TWO_TENSORS, {"defaults": Static()})


def test_hook_discovery_does_not_evaluate_properties():
    class Careful:
        @property
        def trap(self):
            raise RuntimeError("read")

        @hookimpl
        def update_due(self):
            return False

    engine(TWO_TENSORS, [Careful()])


def test_an_exception_of_a_plugin_propagates_with_a_note_naming_the_plugin():
    class Failing:
        @hookimpl
        def prune(self):
            raise ZeroDivisionError("mine")

    algorithm = engine(TWO_TENSORS, [Failing()])
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        algorithm.update(algorithm.start(0.8), np.ones(40))
    assert caught.value.__notes__ == ["raised in the hook 'prune' of plugin 'Failing'"]


class NoSelf:
    @hookimpl
    def prune(values):  # noqa: N805  (the mistake)
        return values


class NoArguments:
    @hookimpl
    def update_due():
        return True


class Coroutine:
    @hookimpl
    async def update_due(self):
        return True


class AsyncGenerator:
    @hookimpl
    async def update_due(self):
        yield True


class Generator:
    @hookimpl
    def update_due(self):
        yield True


class Last:
    @hookimpl(trylast=True)
    def update_due(self):
        return True


@pytest.mark.parametrize(
    ("mistaken", "sentence"),
    [
        (NoSelf(), "'prune' of plugin 'mine' has no self"),
        (NoArguments(), "'update_due' of plugin 'mine' has no self"),
        (Coroutine(), "'update_due' of plugin 'mine' is a coroutine or a generator"),
        (Generator(), "'update_due' of plugin 'mine' is a coroutine or a generator"),
        (AsyncGenerator(), "'update_due' of plugin 'mine' is a coroutine or a generator"),
        (Last(), "'update_due' of plugin 'mine' is marked trylast"),
    ],
)
def test_a_hook_whose_result_could_not_be_used_is_refused(mistaken, sentence):
    with pytest.raises(PluginError, match=sentence):
        engine(TWO_TENSORS, {"mine": mistaken})
