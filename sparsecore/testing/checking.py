"""Checks all promises of a plugin, or of a stack of strategies, one after another, for ``sparsecore check``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, PluginError, unknown
from sparsecore.plugins.discovery import installed, load
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.counterexamples import HEAD, abbreviated_example, rows
from sparsecore.testing.hyperparameters import hyperparameters
from sparsecore.testing.promises import Promise
from sparsecore.testing.runs import make_engine, perform_update, snapshot_before_update
from sparsecore.testing.scenarios import Scenario, from_json
from sparsecore.testing.search import CheckResult, Status, check_example, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import (
    BackendSubject,
    RandomPruning,
    Stack,
    StrategySubject,
    declarations,
    fresh_copies,
    implementer,
    with_wrapped_hooks,
)


@attrs.frozen(eq=False)
class PluginCheck:
    """The check of a plugin, or of a stack of strategies.

    Attributes:
        selections: the names by which the plugins were selected, bottom first.
        subject: the strategies or the backend under test.
        promises: the promises to check.
        backends: names of the backends that were given for comparison; empty for all.
        read_example: reads an example from its text.
    """

    selections: Sequence[str]
    subject: Any
    promises: Sequence[Promise]
    backends: Sequence[str]
    read_example: Callable[[str], Any]

    def results(self, examples: int, seed: int, example: str | None) -> Iterator[CheckResult]:
        """Check the promises one after another.

        Args:
            examples: how many examples each promise is checked with.
            seed: the seed of the examples.
            example: the text of the only example to check; None to draw examples.

        Yields:
            The result of each promise.

        Raises:
            InputError: the plugin refused every example, or the text is no example.
        """
        any_kept = False
        for promise in self.promises:
            if example is None:
                result = check_promise(promise, self.subject, examples=examples, first_seed=seed)
            else:
                result = check_example(promise, self.subject, self.read_example(example))
            any_kept = any_kept or result.status is Status.KEPT
            if result.status is Status.REFUSED and not any_kept:
                raise InputError(f"{self.plugin} refused every example: {result.reason}")
            yield result

    def not_checked(self) -> list[str]:
        """Return sentences that name the decisions of the strategies that no promise checks."""
        if not isinstance(self.subject, StrategySubject):
            return []
        reasons = {
            "not checked, because nothing is declared": _undeclared(self.subject),
            "only your own tests can check": _unchecked(self.subject),
        }
        return [f"{reason}: {', '.join(decisions)}" for reason, decisions in reasons.items() if decisions]

    def slowness_warning(self, examples: int) -> str | None:
        """Return a sentence that says how long the check of a slow strategy will take; None if it is fast.

        Args:
            examples: how many examples each promise is checked with.
        """
        if not isinstance(self.subject, StrategySubject):
            return None
        hook, seconds = _slowest_hook(self.subject)
        if seconds < _SLOW:
            return None
        total = sum(promise.fraction for promise in self.promises) * examples * _CALLS * seconds
        duration = f"{total / 60:.0f} minutes" if total > 100 else f"{total:.0f} s"
        return (
            f"a call of {hook!r} takes {seconds:.2g} s, so this check will take about {duration}; fewer examples "
            "(--examples 5) or a single promise (--promise NAME) take less"
        )

    @property
    def plugin(self) -> str:
        """The names of the plugins, as a title."""
        return " + ".join(self.selections)

    @property
    def width(self) -> int:
        """The number of characters of the longest name of a promise."""
        return max(len(promise.name) for promise in self.promises)

    def table(self, example: Any) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the head and the rows of a table that shows an example.

        Args:
            example: of a strategy, whose update is run for the table, or of a backend, which is shown as text.
        """
        if isinstance(example, Scenario):
            return HEAD, rows(example)
        return ("example",), [(abbreviated_example(example),)]

    def to_json(self, example: Any) -> str | None:
        """Return an example as JSON, which ``sparsecore check --example`` reads.

        Args:
            example: an example that was drawn.

        Returns:
            One line; None for examples of backends, which cannot be read back.
        """
        return example.to_json() if isinstance(example, Scenario) else None


def plugin_check(*selections: str, backends: Sequence[str] | None = None, promises: Sequence[str] = ()) -> PluginCheck:
    """Return the check of a plugin, or of a stack of strategies.

    Args:
        selections: the name of an installed strategy or backend, 'package.module:Object' or 'file.py:Object'; several
            strategies form a stack, bottom first.
        backends: names of the backends whose decisions are compared with the oracle's; None for all that are installed.
        promises: names of the promises to check; empty for all.

    Raises:
        InputError: there is no such plugin, backend or promise; or a backend or the same strategy twice in a stack.
    """
    chosen = [load(_kind(selection), selection) for selection in selections]
    for backend in backends or ():
        load("backend", backend)
    if len(chosen) == 1 and _is_backend(chosen[0]):
        return _backend_check(selections[0], chosen[0], backends, promises)
    for selection, plugin in zip(selections, chosen, strict=True):
        if _is_backend(plugin):
            raise InputError(f"several names are strategies that are stacked; {selection} is a backend")
    return _strategy_check(selections, chosen, backends, promises)


def _is_backend(chosen: Any) -> bool:
    return hasattr(chosen, "arrays") and hasattr(chosen, "learner")


def _kind(selection: str) -> str:
    """Return the kind of plugin that a name is looked up in: backends if only these have it, else strategies."""
    names = {kind: {entry.name for entry in installed(kind)} for kind in ("strategy", "backend")}
    return "backend" if selection in names["backend"] - names["strategy"] else "strategy"


def _backend_check(selection: str, chosen: Any, backends: Sequence[str] | None, promises: Sequence[str]) -> PluginCheck:
    if backends:
        raise InputError(f"{selection} is a backend itself; --backend is for checking a strategy")
    subject = BackendSubject.of(_instance(selection, chosen))
    return PluginCheck((selection,), subject, _chosen(BACKEND_PROMISES, promises), (), _refuse_example)


def _refuse_example(_: str) -> Any:
    raise InputError("examples of a backend cannot be read back; repeat the check with its --promise and --seed")


def _strategy_check(
    selections: Sequence[str], chosen: Sequence[Any], backends: Sequence[str] | None, promises: Sequence[str]
) -> PluginCheck:
    names = [selection.rpartition(":")[2] for selection in selections]
    if len(set(names)) < len(names):
        raise InputError(f"a strategy is stacked twice: {', '.join(names)}")
    drawn = map(_instances, selections, chosen)
    subject = StrategySubject.of(st.fixed_dictionaries(dict(zip(names, drawn, strict=True))), backends=backends)
    return PluginCheck(
        selections,
        subject,
        _chosen(STRATEGY_PROMISES, promises),
        backends or (),
        lambda text: from_json(text, subject.sample),
    )


def _instances(selection: str, chosen: Any) -> SearchStrategy[Any]:
    """Return a hypothesis strategy for a plugin: with any hyperparameters if it is an attrs class, else as it is."""
    if isinstance(chosen, type) and attrs.has(chosen):
        try:
            return hyperparameters(chosen)
        except TypeError as error:
            raise InputError(f"{selection} cannot be tried: {error}") from error
    return st.just(_instance(selection, chosen))


def _instance(selection: str, chosen: Any) -> Any:
    if not isinstance(chosen, type):
        return chosen
    try:
        return chosen()
    except Exception as error:
        raise PluginError(f"{selection} cannot be made without options, and takes none: {error!r}") from error


def _chosen(promises: Sequence[Promise], names: Sequence[str]) -> Sequence[Promise]:
    known: Mapping[str, Promise] = {promise.name: promise for promise in promises}
    for name in names:
        if name not in known:
            raise InputError(unknown("promise", name, known))
    return [known[name] for name in names] or promises


_NEED_DECLARATION: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prune": ("which weights are pruned first", "smallest_first"),
        "revise_pruning": ("which weights are pruned in the end", "smallest_first"),
        "allocate": ("how many weights grow in each tensor", "shares"),
        "initial_values": ("the values that grown weights start with", "grown_value"),
    }
)
"""What is checked only if it is declared, by the hook that decides it, with the name of the declaration."""

_NEVER_CHECKED: Mapping[str, str] = MappingProxyType(
    {
        "grow": "which of the free positions grow",
        "perturb_gradient": "how gradients are perturbed",
        "perturb": "how values are perturbed",
        "observe": "what is stored about gradients",
        "adjust": "what is stored about pruning",
        "remember": "what is stored about an update",
    }
)
"""What no promise checks, because it is what distinguishes a strategy, by the hook that decides it."""


def _undeclared(subject: StrategySubject) -> list[str]:
    return [
        f"{decision} ({hook!r}; declare {name})"
        for hook, (decision, name) in _NEED_DECLARATION.items()
        if _decides(subject.sample, hook) and getattr(declarations(subject, subject.sample, hook), name) is None
    ]


def _unchecked(subject: StrategySubject) -> list[str]:
    return [f"{decision} ({hook!r})" for hook, decision in _NEVER_CHECKED.items() if _decides(subject.sample, hook)]


def _decides(stack: Stack, hook: str) -> bool:
    plugin = implementer(stack, hook)
    return plugin is not None and not isinstance(plugin, RandomPruning)


_SLOW = 0.05
"""Seconds from which on a call of a hook is slow."""

_CALLS = 6
"""About how often an example calls a hook."""


def _slowest_hook(subject: StrategySubject) -> tuple[str, float]:
    """Return the hook whose call takes longest in a step and an update of a small network, and its seconds."""
    scenario = _small_scenario(subject)
    seconds: dict[str, float] = {"": 0.0}

    def timed(hook: str, method: Any, arguments: Mapping[str, Any]) -> Any:
        since = perf_counter()
        try:
            return method(**arguments)
        finally:
            seconds[hook] = max(seconds.get(hook, 0.0), perf_counter() - since)

    with suppress(Exception):  # the promises report errors
        stack = {name: with_wrapped_hooks(plugin, timed) for name, plugin in fresh_copies(scenario.stack).items()}
        engine = make_engine(scenario, stack=stack)
        perform_update(engine, scenario, snapshot_before_update(engine, scenario))
    slowest = max(seconds, key=lambda hook: seconds[hook])
    return slowest, seconds[slowest]


def _small_scenario(subject: StrategySubject) -> Scenario:
    layout = Layout.of({"first": (4, 5), "second": (20,)})
    random = np.random.default_rng(0)
    values = random.standard_normal(layout.size // 4)
    return Scenario(
        stack=subject.sample,
        layout=layout,
        positions=np.arange(0, layout.size, 4).astype(layout.position_dtype),
        values=values,
        gradients={name: random.standard_normal(20) for name in layout.names} if subject.requests("gradient") else {},
        clock=Clock(step=1, updates=1, total_steps=100),
        previous_updates=1,
    )
