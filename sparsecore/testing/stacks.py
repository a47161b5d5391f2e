"""What is put to the test: a stack of strategies, and what it declares."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sparsecore._registration import MARK
from sparsecore.declared import Declares
from sparsecore.engine import Engine
from sparsecore.errors import InputError
from sparsecore.layout import Layout
from sparsecore.plugins import installed
from sparsecore.testing.oracle import ORACLE, oracle_arrays
from sparsecore.testing.pruning import RandomPruning

Stack: TypeAlias = Mapping[str, Any]
"""Strategies by name, bottom first."""

Given: TypeAlias = Any
"""A strategy, a list of them, a dict of them by name, or a hypothesis strategy for one of these."""


@attrs.frozen(eq=False)
class Subject:
    """A strategy under test.

    Attributes:
        stacks: what examples are drawn from.
        sample: one stack of them, for the hooks that it has.
        declares: what it promises beyond what its plugins declare themselves; None to believe them.
        backends: names of the backends whose decisions are compared with the oracle's.
    """

    stacks: SearchStrategy[Stack]
    sample: Stack
    declares: Declares | None = None
    backends: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        given: Given,
        sample: Given = None,
        *,
        declares: Declares | None = None,
        backends: Sequence[str] | None = None,
    ) -> "Subject":
        """The strategy as it was given.

        Args:
            given: a strategy, a list or a dict of strategies, or a hypothesis strategy for one of these.
            sample: an instance of it, where it is a hypothesis strategy; the simplest is looked for otherwise.
            declares: what it promises; None for what its plugins declare.
            backends: names of the backends to compare; all that are installed, where it is None.

        Raises:
            PluginError: it cannot be registered; the message says why.
        """
        if isinstance(given, SearchStrategy):
            stacks = given.map(_as_pruning_stack)
            first = _as_pruning_stack(_simplest(given) if sample is None else sample)
        else:
            first = _as_pruning_stack(given)
            stacks = st.just(first)
        Engine(Layout.of({"weight": (1,)}), first, arrays=oracle_arrays())  # whatever cannot be registered is told here
        others = tuple(entry.name for entry in installed("backend") if entry.name != ORACLE)
        return cls(stacks, first, declares, others if backends is None else tuple(backends))

    def decided_by_engine(self, hook: str) -> bool:
        """Whether no strategy has this hook."""
        return topmost(self.sample, hook) is None

    def asks_for(self, argument: str) -> bool:
        """Whether a hook of a strategy asks for this argument."""
        return any(
            argument in inspect.signature(method).parameters
            for plugin in self.sample.values()
            for method in hooks_of(plugin).values()
        )


def as_stack(given: Given) -> Stack:
    """Strategies by name, as the engine names them."""
    if isinstance(given, Mapping):
        return given
    given = given if isinstance(given, list | tuple) else [given]
    named = {type(strategy).__name__: strategy for strategy in given}
    if len(named) < len(given):
        raise InputError("two strategies of one class are stacked; give them as a dict of distinct names")
    return named


def _as_pruning_stack(given: Given) -> Stack:
    """With pruning below strategies that have none, so that there is something to allocate and to grow."""
    stack = as_stack(given)
    return stack if topmost(stack, "prune") else {"the kit's pruning": RandomPruning(), **stack}


def fresh(stack: Stack) -> Stack:
    """Copies that have seen no run yet: what a strategy keeps to itself is not in them."""
    return {name: _copied(plugin) for name, plugin in stack.items()}


def hooks_of(plugin: Any) -> dict[str, Any]:
    """The plugin's hooks."""
    methods = {name: getattr(plugin, name, None) for name in dir(plugin) if not name.startswith("__")}
    return {name: method for name, method in methods.items() if hasattr(method, MARK)}


def topmost(stack: Stack, hook: str) -> Any:
    """The strategy that decides this step; None where none has the hook."""
    having = [plugin for plugin in stack.values() if hook in hooks_of(plugin)]
    return having[-1] if having else None


def declared(subject: Subject, stack: Stack, hook: str) -> Declares:
    """What the strategy that decides this step declares."""
    own: Declares = getattr(topmost(stack, hook), "declares", Declares())
    return own if subject.declares is None else subject.declares


def _copied(plugin: Any) -> Any:
    try:
        return copy.deepcopy(plugin)
    except Exception:  # it holds what cannot be copied; then it is used as it is
        return plugin


def _simplest(given: SearchStrategy[Any]) -> Any:
    from hypothesis import Phase, find, settings

    return find(given, lambda _: True, settings=settings(database=None, phases=[Phase.generate, Phase.shrink]))
