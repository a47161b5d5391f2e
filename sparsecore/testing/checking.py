"""All promises of an installed plugin, or of one in a file, checked one after another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from sparsecore.errors import InputError, PluginError, unknown
from sparsecore.plugins import installed, load
from sparsecore.testing.backend_promises import BACKEND_PROMISES
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.hyperparameters import hyperparameters
from sparsecore.testing.judging import DEFAULT_EXAMPLES, Outcome, Verdict, judge, judge_example
from sparsecore.testing.promises import Promise
from sparsecore.testing.scenes import Scene, from_json
from sparsecore.testing.stacks import Subject
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.telling import HEAD, rows

__all__ = ["DEFAULT_EXAMPLES", "Checked", "checked"]


@attrs.frozen(eq=False)
class Checked:
    """A plugin and its promises.

    Attributes:
        plugin: what selected it.
        subject: what is given to the checks.
        promises: those that are checked.
        backends: the backends that were asked for; none where it is all of them.
        read: an example from its text.
    """

    plugin: str
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

    @property
    def width(self) -> int:
        """Of the longest name."""
        return max(len(promise.name) for promise in self.promises)

    def table(self, example: Any) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Head and rows that show the example."""
        return (HEAD, rows(example)) if isinstance(example, Scene) else (("example",), [(repr(example),)])

    def to_json(self, example: Any) -> str | None:
        """The example as text; None where it has none."""
        return example.to_json() if isinstance(example, Scene) else None


def checked(selection: str, *, backends: Sequence[str] | None = None, promises: Sequence[str] = ()) -> Checked:
    """The promises of a plugin.

    Args:
        selection: the name of an installed strategy or backend, 'package.module:Object' or 'file.py:Object'.
        backends: whose decisions are compared with the oracle's; all that are installed, where it is None.
        promises: names of those to check; all, where there are none.

    Raises:
        InputError: there is no such plugin, backend or promise.
    """
    chosen = load(_kind(selection), selection)
    for backend in backends or ():
        load("backend", backend)
    is_backend = hasattr(chosen, "arrays") and hasattr(chosen, "learner")
    return (_backend if is_backend else _strategy)(selection, chosen, backends, promises)


def _kind(selection: str) -> str:
    """Where a name is looked up: among the strategies, if in doubt."""
    names = {kind: {entry.name for entry in installed(kind)} for kind in ("strategy", "backend")}
    return "backend" if selection in names["backend"] - names["strategy"] else "strategy"


def _backend(selection: str, chosen: Any, backends: Sequence[str] | None, promises: Sequence[str]) -> Checked:
    if backends:
        raise InputError(f"{selection} is a backend itself; --backend is for checking a strategy")
    subject = BackendSubject.of(_made(selection, chosen))
    return Checked(selection, subject, _chosen(BACKEND_PROMISES, promises), (), _refuse_example)


def _refuse_example(_: str) -> Any:
    raise InputError("examples of a backend cannot be read back; repeat the check with its --promise and --seed")


def _strategy(selection: str, chosen: Any, backends: Sequence[str] | None, promises: Sequence[str]) -> Checked:
    name = selection.rpartition(":")[2]
    if isinstance(chosen, type) and attrs.has(chosen):
        given: Any = hyperparameters(chosen).map(lambda strategy: {name: strategy})
    else:
        given = {name: _made(selection, chosen)}
    subject = Subject.of(given, backends=backends)
    chosen_promises = _chosen(STRATEGY_PROMISES, promises)
    return Checked(selection, subject, chosen_promises, backends or (), lambda text: from_json(text, subject.sample))


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
