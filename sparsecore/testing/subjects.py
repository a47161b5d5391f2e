"""The strategies and backends under test, and the oracle that they are compared with."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from sparsecore.engine.arrays import Array, Arrays
from sparsecore.engine.declarations import Declares
from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.registration import MARK
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.learning.protocols import Backend
from sparsecore.plugins.discovery import installed, load
from sparsecore.testing.hyperparameters import hyperparameters

ORACLE = "numpy"
"""The name of the backend that all others are compared with."""

Stack: TypeAlias = Mapping[str, Any]
"""A stack of strategies by name, bottom first."""

StrategyLike: TypeAlias = Any
"""A strategy, a list of strategies, a dict of strategies by name, or a hypothesis strategy for one of these."""


@functools.cache
def oracle(dtype: str = "float32") -> Backend:
    """Return the oracle, the NumPy backend.

    Args:
        dtype: the dtype that it computes in, float32 or float64.
    """
    backend: Backend = load("backend", ORACLE)(dtype=dtype)
    return backend


def oracle_arrays() -> Arrays:
    """Return the array operations of the oracle."""
    return oracle().arrays


@attrs.frozen(eq=False)
class StrategySubject:
    """A stack of strategies under test.

    Attributes:
        stacks: a hypothesis strategy for the stacks that examples use.
        sample: one such stack, to see which hooks it implements.
        declares: what is declared for the whole stack; None to use what each strategy declares itself.
        backends: names of the backends whose decisions are compared with the oracle's.
        alternatives: stacks of the same strategies with other hyperparameters.
    """

    stacks: SearchStrategy[Stack]
    sample: Stack
    declares: Declares | None = None
    backends: tuple[str, ...] = ()
    alternatives: tuple[Stack, ...] = ()

    @classmethod
    def of(
        cls,
        strategy: StrategyLike,
        sample: StrategyLike = None,
        *,
        declares: Declares | None = None,
        backends: Sequence[str] | None = None,
    ) -> "StrategySubject":
        """Return the subject for a strategy.

        Args:
            strategy: a strategy, a list or a dict of strategies, or a hypothesis strategy for one of these.
            sample: an instance of it, if it is a hypothesis strategy; None to use the simplest that it draws.
            declares: what is declared for the whole stack; None to use what each strategy declares itself.
            backends: names of the backends to compare with the oracle; None for all that are installed.

        Raises:
            PluginError: a strategy cannot be registered; the message says why.
        """
        if isinstance(strategy, SearchStrategy):
            stacks = varied = strategy.map(_with_pruning)
            first = _with_pruning(_simplest(strategy) if sample is None else sample)
        else:
            first = _with_pruning(strategy)
            stacks, varied = st.just(first), _with_drawn_hyperparameters(first)
        Engine(Layout.of({"weight": (1,)}), first, arrays=oracle_arrays())  # raises if a strategy cannot be registered
        others = tuple(entry.name for entry in installed("backend") if entry.name != ORACLE)
        compared = others if backends is None else tuple(backends)
        return cls(stacks, first, declares, compared, tuple(_drawn_stacks(varied)))

    def uses_default(self, hook: str) -> bool:
        """Whether no strategy implements a hook, so that the engine's default decides.

        Args:
            hook: its name. Strategies that prune nothing have random pruning below them, so 'prune' is always
                implemented.
        """
        return implementer(self.sample, hook) is None

    def requests(self, argument: str, *hooks: str) -> bool:
        """Whether a hook of a strategy takes an argument.

        Args:
            argument: its name, such as 'gradient'.
            hooks: the hooks to consider; all, if none are given.
        """
        return any(
            argument in inspect.signature(method).parameters
            for plugin in self.sample.values()
            for hook, method in hooks_of(plugin).items()
            if not hooks or hook in hooks
        )

    @property
    def requests_gradients(self) -> bool:
        """Whether a hook takes gradients: dense ones, or those of active weights or candidates."""
        hooks = ("observe", "prune", "allocate", "grow")
        return any(self.requests(one, *hooks) for one in ("gradient", "weight_gradient", "candidate_gradient"))

    @property
    def needs_no_dense_memory(self) -> bool:
        """Whether it requests nothing dense, and starts as sparse as it ends, as it implements no target_size."""
        # of a vector, norms of inputs have an entry for each position
        is_dense = self.requests("gradient") or self.requests("input_norms")
        starts_by_values = self.requests("values", "initial_topology", "initial_strategy_state")
        return not (is_dense or starts_by_values) and self.uses_default("target_size")


@attrs.frozen(eq=False)
class RandomPruning:
    """Prunes a random third of each tensor's weights, independent of their values, the engine's seed and the update.

    With the same weights pruned each time, what grows can differ by the growth alone.
    """

    @hookimpl
    def prune(self, topology: Topology) -> Array:
        """Keep about two of three weights, drawn by the name of the tensor."""
        names, random = zip(topology.layout.names, topology.counts, strict=True), Randomness(0)
        kept = [random.generator(_RANDOM_PRUNING, name).random(count) > 1 / 3 for name, count in names]
        return topology.arrays.from_numpy(np.concatenate(kept))


_RANDOM_PRUNING = "the kit's pruning"
"""The name of :class:`RandomPruning` in a stack, in examples that were printed, and of its random numbers."""


def stack_of(strategy: StrategyLike) -> Stack:
    """Return the strategies by name, with the names that the engine gives them.

    Args:
        strategy: a strategy, or a list or a dict of strategies.

    Raises:
        InputError: two strategies of a list are of the same class.
    """
    if isinstance(strategy, Mapping):
        return strategy
    strategies = strategy if isinstance(strategy, list | tuple) else [strategy]
    by_name = {type(each).__name__: each for each in strategies}
    if len(by_name) < len(strategies):
        raise InputError("two strategies of one class are stacked; give them as a dict of distinct names")
    return by_name


def _with_pruning(strategy: StrategyLike) -> Stack:
    """Put random pruning below strategies that prune nothing, so that there are weights to allocate and to grow."""
    stack = stack_of(strategy)
    return stack if implementer(stack, "prune") else {_RANDOM_PRUNING: RandomPruning(), **stack}


def fresh_copies(stack: Stack) -> Stack:
    """Copy the strategies, without anything that they may have stored in themselves during a run.

    Args:
        stack: strategies by name, which have not been run; one that cannot be copied is used itself.
    """
    return {name: _copied(plugin) for name, plugin in stack.items()}


def _copied(plugin: Any) -> Any:
    try:
        return copy.deepcopy(plugin)
    except Exception:  # it holds something that cannot be copied, so it is used itself
        return plugin


def hooks_of(plugin: Any) -> dict[str, Any]:
    """Return the methods by which a plugin implements hooks.

    Args:
        plugin: the instance; its properties are read.

    Returns:
        Bound methods by the name of the hook.
    """
    methods = {name: getattr(plugin, name, None) for name in dir(plugin) if not name.startswith("__")}
    return {name: method for name, method in methods.items() if hasattr(method, MARK)}


def with_wrapped_hooks(plugin: Any, call: Callable[[str, Any, Mapping[str, Any]], Any]) -> Any:
    """Return a plugin with the same hooks, each of which calls ``call(hook, method, arguments)``.

    Args:
        plugin: the plugin.
        call: takes the name of the hook, the plugin's method and the arguments by name, and returns the hook's result.
    """

    def wrapped(hook: str, method: Any) -> Any:
        @functools.wraps(method)
        def implementation(**arguments: Any) -> Any:
            return call(hook, method, arguments)

        setattr(implementation, MARK, getattr(method, MARK))
        return staticmethod(implementation)

    return type(type(plugin).__name__, (), {hook: wrapped(hook, method) for hook, method in hooks_of(plugin).items()})()


def implementer(stack: Stack, hook: str) -> Any:
    """Return the strategy that decides a step of the engine.

    Args:
        stack: strategies by name, bottom first.
        hook: the name of a hook.

    Returns:
        The topmost strategy that implements the hook; None if none does.
    """
    return next((plugin for plugin in reversed(list(stack.values())) if hook in hooks_of(plugin)), None)


def declarations(subject: StrategySubject, stack: Stack, hook: str) -> Declares:
    """Return what is declared about a hook.

    Args:
        subject: the subject, whose own declaration applies to all hooks.
        stack: one of its stacks; if the subject declares nothing, the topmost strategy that implements the hook does.
        hook: the name of the hook.
    """
    own: Declares = getattr(implementer(stack, hook), "declares", Declares())
    return own if subject.declares is None else subject.declares


def pruning_declarations(subject: StrategySubject, stack: Stack) -> Declares:
    """Return what is declared about the weights that are pruned, by the strategy that decides last.

    Args:
        subject: the subject, whose own declaration applies to all hooks.
        stack: one of its stacks.
    """
    revises = implementer(stack, "revise_pruning") is not None
    return declarations(subject, stack, "revise_pruning" if revises else "prune")


def _with_drawn_hyperparameters(stack: Stack) -> SearchStrategy[Stack]:
    return st.fixed_dictionaries({name: _any_of_its_class(plugin) for name, plugin in stack.items()})


def _any_of_its_class(plugin: Any) -> SearchStrategy[Any]:
    try:
        return hyperparameters(type(plugin))
    except TypeError:  # it is no attrs class, or has a field of a type that cannot be drawn
        return st.just(plugin)


_ALTERNATIVES = 20
"""How many stacks with other hyperparameters are drawn."""


def _drawn_stacks(stacks: SearchStrategy[Stack]) -> list[Stack]:
    """Draw some stacks, the same each time."""
    drawn: list[Stack] = []

    @seed(0)
    @settings(
        max_examples=_ALTERNATIVES, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck)
    )
    @given(stacks)
    def collect(stack: Stack) -> None:
        drawn.append(stack)

    try:
        collect()
    except Unsatisfiable:  # the class refuses whatever is drawn, which the promises report
        return []
    return drawn


def _simplest(strategies: SearchStrategy[Any]) -> Any:
    return find(strategies, lambda _: True, settings=settings(database=None, phases=[Phase.generate, Phase.shrink]))


_TOLERANCES = {"float32": 2e-4, "float64": 1e-8}
"""How much results may differ from the oracle's by the dtype they are computed in, relative to the largest."""


@attrs.frozen(eq=False)
class BackendSubject:
    """A backend under test.

    Attributes:
        backend: the backend.
        precise: the same backend with float64; None if it does not support that.
    """

    backend: Backend
    precise: Backend | None

    @classmethod
    def of(cls, backend: Any) -> "BackendSubject":
        """Return the subject for a backend, with its float64 variant where ``attrs.evolve`` makes one.

        Args:
            backend: an instance; one that is no attrs value, or refuses float64, is checked in its own dtype alone.
        """
        try:
            precise: Backend | None = attrs.evolve(backend, dtype="float64")
        except (TypeError, ValueError):
            precise = None
        return cls(backend, precise)

    @property
    def most_precise(self) -> Backend:
        """The backend with float64 if it supports that, else the backend itself."""
        return self.precise or self.backend

    @property
    def is_oracle(self) -> bool:
        """Whether the backend is the oracle, which is compared with definitions alone."""
        return type(self.backend) is type(oracle())

    def tolerance(self, backend: Backend) -> float:
        """Return how much results may differ from the oracle's, relative to the largest of them.

        Args:
            backend: the backend or its float64 variant; its dtype decides.

        Returns:
            2e-4 for float32, 1e-8 for float64, 2e-2 for anything coarser.
        """
        return _TOLERANCES.get(backend.dtype, 2e-2)
