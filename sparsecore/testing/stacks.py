"""What is put to the test: a stack of strategies, and what it declares."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from sparsecore.engine.arrays import Array
from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import Declares, hookimpl
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.registration import MARK
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.plugins.discovery import installed
from sparsecore.testing.backend_subjects import ORACLE, oracle_arrays
from sparsecore.testing.hyperparameters import hyperparameters


@attrs.frozen(eq=False)
class RandomPruning:
    """A third of each tensor's weights goes, drawn by the tensor's name, whatever their values."""

    @hookimpl
    def prune(self, topology: Topology) -> Array:
        """Two of three stay, the same for every seed and in every update: what grows then differs by growth alone."""
        names, random = zip(topology.layout.names, topology.counts, strict=True), Randomness(0)
        stays = [random.generator("the kit's pruning", name).random(count) > 1 / 3 for name, count in names]
        return topology.arrays.from_numpy(np.concatenate(stays))


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
        others: stacks of the same strategies with some other hyperparameters.
    """

    stacks: SearchStrategy[Stack]
    sample: Stack
    declares: Declares | None = None
    backends: tuple[str, ...] = ()
    others: tuple[Stack, ...] = ()

    @classmethod
    def of(
        cls,
        strategy: Given,
        sample: Given = None,
        *,
        declares: Declares | None = None,
        backends: Sequence[str] | None = None,
    ) -> "Subject":
        """The strategy as it was given.

        Args:
            strategy: a strategy, a list or a dict of strategies, or a hypothesis strategy for one of these.
            sample: an instance of it, where it is a hypothesis strategy; the simplest is looked for otherwise.
            declares: what it promises; None for what its plugins declare.
            backends: names of the backends to compare; all that are installed, where it is None.

        Raises:
            PluginError: it cannot be registered; the message says why.
        """
        if isinstance(strategy, SearchStrategy):
            stacks = varied = strategy.map(_as_pruning_stack)
            first = _as_pruning_stack(_simplest(strategy) if sample is None else sample)
        else:
            first = _as_pruning_stack(strategy)
            stacks, varied = st.just(first), _with_any_hyperparameters(first)
        Engine(Layout.of({"weight": (1,)}), first, arrays=oracle_arrays())  # whatever cannot be registered is told here
        others = tuple(entry.name for entry in installed("backend") if entry.name != ORACLE)
        compared = others if backends is None else tuple(backends)
        return cls(stacks, first, declares, compared, tuple(_some_of(varied)))

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

    @property
    def is_sparse_throughout(self) -> bool:
        """Whether it needs nothing dense: no gradients, and no dense start where it declares the number of weights."""
        return not self.asks_for("gradient") and self.decided_by_engine("target_size")


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


def _with_any_hyperparameters(stack: Stack) -> SearchStrategy[Stack]:
    """The stack with other hyperparameters for those of its strategies whose class says what there may be."""
    return st.fixed_dictionaries({name: _any_of_its_class(plugin) for name, plugin in stack.items()})


def _any_of_its_class(plugin: Any) -> SearchStrategy[Any]:
    try:
        return hyperparameters(type(plugin))
    except TypeError:  # no attrs class, or a field that nothing can be drawn for
        return st.just(plugin)


_OTHERS = 20
"""Other hyperparameters that are tried where it matters whether any do."""


def _some_of(stacks: SearchStrategy[Stack]) -> list[Stack]:
    """Some of them, the same each time."""
    found: list[Stack] = []

    @seed(0)
    @settings(max_examples=_OTHERS, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(stacks)
    def collect(stack: Stack) -> None:
        found.append(stack)

    try:
        collect()
    except Unsatisfiable:  # whatever is drawn is refused; the promises tell of it
        return []
    return found


def _simplest(of: SearchStrategy[Any]) -> Any:
    return find(of, lambda _: True, settings=settings(database=None, phases=[Phase.generate, Phase.shrink]))
