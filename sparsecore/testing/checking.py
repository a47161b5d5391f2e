"""All promises of a plugin, installed or in a file, or of a stack of strategies, checked one after another."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sparsecore.engine.registration import MARK
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, PluginError, unknown
from sparsecore.plugins.discovery import installed, load
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.counterexamples import HEAD, in_short, rows
from sparsecore.testing.hyperparameters import hyperparameters
from sparsecore.testing.judging import DEFAULT_EXAMPLES, Outcome, Verdict, judge, judge_example
from sparsecore.testing.promises import Promise
from sparsecore.testing.runs import begun, engine, judged_update
from sparsecore.testing.scenes import Scene, from_json
from sparsecore.testing.stacks import RandomPruning, Stack, Subject, declared, fresh, hooks_of, topmost
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES

_DECLARED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prune": ("which weights are pruned first", "smallest_first"),
        "allocate": ("how many weights grow in each tensor", "shares"),
        "initial_values": ("the values that grown weights start with", "grown_value"),
    }
)
"""What is judged only where it is declared, and by what."""

_NEVER: Mapping[str, str] = MappingProxyType(
    {
        "grow": "which of the free positions grow",
        "perturb": "which values perturbation leads to",
        "observe": "what is remembered of gradients",
        "adjust": "what is remembered of pruning",
        "remember": "what is remembered of an update",
    }
)
"""What no promise says anything about, since it makes the strategy what it is."""


def undeclared(subject: Subject) -> list[str]:
    """What the strategies decide that is not judged because nothing is declared of it."""
    return [
        f"{what} ({hook!r}; declare {name})"
        for hook, (what, name) in _DECLARED.items()
        if _decides(subject.sample, hook) and getattr(declared(subject, subject.sample, hook), name) is None
    ]


def never_judged(subject: Subject) -> list[str]:
    """What the strategies decide that only a test of their author's can judge."""
    return [f"{what} ({hook!r})" for hook, what in _NEVER.items() if _decides(subject.sample, hook)]


def _decides(stack: Stack, hook: str) -> bool:
    decider = topmost(stack, hook)
    return decider is not None and not isinstance(decider, RandomPruning)


def slowest_hook(subject: Subject) -> tuple[str, float]:
    """The hook whose call takes longest in a step and an update of a small network, and its seconds.

    Whatever goes wrong there is for the promises to tell.
    """
    seconds: dict[str, float] = {"": 0.0}
    scene = _small(subject)
    with suppress(Exception):
        algorithm = engine(scene, stack={name: _timed(plugin, seconds) for name, plugin in fresh(scene.stack).items()})
        judged_update(algorithm, scene, begun(algorithm, scene))
    slowest = max(seconds, key=lambda hook: seconds[hook])
    return slowest, seconds[slowest]


def _small(subject: Subject) -> Scene:
    layout = Layout.of({"first": (4, 5), "second": (20,)})
    draws = np.random.default_rng(0)
    return Scene(
        stack=subject.sample,
        layout=layout,
        positions=np.arange(0, layout.size, 4).astype(layout.position_dtype),
        values=draws.standard_normal(layout.size // 4),
        gradients={name: draws.standard_normal(20) for name in layout.names} if subject.asks_for("gradient") else {},
        clock=Clock(step=1, updates=1, total_steps=100),
        past=1,
    )


def _timed(plugin: Any, seconds: dict[str, float]) -> Any:
    """A plugin that answers as this one does, and notes the longest call of each hook."""

    def timed(hook: str, method: Any) -> Any:
        @functools.wraps(method)
        def answer(**given: Any) -> Any:
            since = perf_counter()
            try:
                return method(**given)
            finally:
                seconds[hook] = max(seconds.get(hook, 0.0), perf_counter() - since)

        setattr(answer, MARK, getattr(method, MARK))
        return answer

    hooks = {hook: staticmethod(timed(hook, method)) for hook, method in hooks_of(plugin).items()}
    return type(type(plugin).__name__, (), hooks)()


_SLOW = 0.05
"""Seconds of a call that is slow."""

_CALLS = 6
"""How often an example calls a hook, about."""

__all__ = ["DEFAULT_EXAMPLES", "Checked", "checked"]


@attrs.frozen(eq=False)
class Checked:
    """A plugin, or a stack of strategies, and its promises.

    Attributes:
        selections: what selected it; of a stack the bottom first.
        subject: what is given to the checks.
        promises: those that are checked.
        backends: the backends that were asked for; none where it is all of them.
        read: an example from its text.
    """

    selections: Sequence[str]
    subject: Any
    promises: Sequence[Promise]
    backends: Sequence[str]
    read: Callable[[str], Any]

    def verdicts(self, examples: int, seed: int, example: str | None) -> Iterator[Verdict]:
        """A verdict a promise; on one example only, where its text is given.

        Raises:
            InputError: the plugin refused every example that it was given.
        """
        kept = False
        for promise in self.promises:
            if example is None:
                verdict = judge(promise, self.subject, examples=examples, first_seed=seed)
            else:
                verdict = judge_example(promise, self.subject, self.read(example))
            kept = kept or verdict.outcome is Outcome.KEPT
            if verdict.outcome is Outcome.REFUSED and not kept:
                raise InputError(f"{self.plugin} refused every example: {verdict.reason}")
            yield verdict

    def not_judged(self) -> list[str]:
        """Sentences that say what the strategies decide and no promise judges."""
        if not isinstance(self.subject, Subject):
            return []
        kinds = {
            "not judged, since it is not declared": undeclared(self.subject),
            "for a test of your own": never_judged(self.subject),
        }
        return [f"{why}: {', '.join(what)}" for why, what in kinds.items() if what]

    def warning(self, examples: int) -> str | None:
        """A sentence that says how long a slow strategy will take; None where it is quick."""
        if not isinstance(self.subject, Subject):
            return None
        hook, seconds = slowest_hook(self.subject)
        if seconds < _SLOW:
            return None
        whole = sum(promise.share for promise in self.promises) * examples * _CALLS * seconds
        spent = f"{whole / 60:.0f} minutes" if whole > 100 else f"{whole:.0f} s"
        return (
            f"a call of {hook!r} takes {seconds:.2g} s, so this check will take about {spent}; fewer examples "
            "(--examples 5) or a single promise (--promise NAME) take less"
        )

    @property
    def plugin(self) -> str:
        """What it is called."""
        return " + ".join(self.selections)

    @property
    def width(self) -> int:
        """Of the longest name."""
        return max(len(promise.name) for promise in self.promises)

    def table(self, example: Any) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Head and rows that show the example."""
        return (HEAD, rows(example)) if isinstance(example, Scene) else (("example",), [(in_short(example),)])

    def to_json(self, example: Any) -> str | None:
        """The example as text; None where it has none."""
        return example.to_json() if isinstance(example, Scene) else None


def checked(*selections: str, backends: Sequence[str] | None = None, promises: Sequence[str] = ()) -> Checked:
    """The promises of a plugin, or of a stack of strategies.

    Args:
        selections: the name of an installed strategy or backend, 'package.module:Object' or 'file.py:Object'; several
            strategies are stacked, the bottom first.
        backends: whose decisions are compared with the oracle's; all that are installed, where it is None.
        promises: names of those to check; all, where there are none.

    Raises:
        InputError: there is no such plugin, backend or promise; a backend in a stack, or a strategy twice.
    """
    chosen = [load(_kind(selection), selection) for selection in selections]
    for backend in backends or ():
        load("backend", backend)
    if len(chosen) == 1 and _is_backend(chosen[0]):
        return _backend(selections[0], chosen[0], backends, promises)
    for selection, plugin in zip(selections, chosen, strict=True):
        if _is_backend(plugin):
            raise InputError(f"several names are strategies that are stacked; {selection} is a backend")
    return _stack(selections, chosen, backends, promises)


def _is_backend(chosen: Any) -> bool:
    return hasattr(chosen, "arrays") and hasattr(chosen, "learner")


def _kind(selection: str) -> str:
    """Where a name is looked up: among the strategies, if in doubt."""
    names = {kind: {entry.name for entry in installed(kind)} for kind in ("strategy", "backend")}
    return "backend" if selection in names["backend"] - names["strategy"] else "strategy"


def _backend(selection: str, chosen: Any, backends: Sequence[str] | None, promises: Sequence[str]) -> Checked:
    if backends:
        raise InputError(f"{selection} is a backend itself; --backend is for checking a strategy")
    subject = BackendSubject.of(_made(selection, chosen))
    return Checked((selection,), subject, _chosen(BACKEND_PROMISES, promises), (), _refuse_example)


def _refuse_example(_: str) -> Any:
    raise InputError("examples of a backend cannot be read back; repeat the check with its --promise and --seed")


def _stack(
    selections: Sequence[str], chosen: Sequence[Any], backends: Sequence[str] | None, promises: Sequence[str]
) -> Checked:
    names = [selection.rpartition(":")[2] for selection in selections]
    if len(set(names)) < len(names):
        raise InputError(f"a strategy is stacked twice: {', '.join(names)}")
    drawn = map(_instances, selections, chosen)
    subject = Subject.of(st.fixed_dictionaries(dict(zip(names, drawn, strict=True))), backends=backends)
    kept = _chosen(STRATEGY_PROMISES, promises)
    return Checked(selections, subject, kept, backends or (), lambda text: from_json(text, subject.sample))


def _instances(selection: str, chosen: Any) -> SearchStrategy[Any]:
    """Any hyperparameters that the class admits; what is no such class is as it is."""
    if isinstance(chosen, type) and attrs.has(chosen):
        try:
            return hyperparameters(chosen)
        except TypeError as error:
            raise InputError(f"{selection} cannot be tried: {error}") from error
    return st.just(_made(selection, chosen))


def _made(selection: str, chosen: Any) -> Any:
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
