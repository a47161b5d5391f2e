"""Promises: what the kit says of strategies and backends, each with the check that finds out.

A promise is a value. The test classes, the command line, and the tests of the kit itself all go through the same lists.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from hypothesis.strategies import SearchStrategy

from sparsecore.engine.engine import Engine
from sparsecore.errors import InputError
from sparsecore.testing.backend_subjects import oracle_arrays
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import Stack, fresh

_RAISED_IN_A_HOOK = "raised in the hook "
"""How the note begins that the engine adds to an error of a plugin's."""

_OF_THE_START = ("initial_topology", "initial_strategy_state", "start_values")
"""Hooks that may refuse what a run is given."""


def hook_of(error: BaseException) -> str | None:
    """The note that says which hook of which plugin raised this; None where none did."""
    notes: Iterable[str] = getattr(error, "__notes__", ())
    return next((note for note in notes if note.startswith(_RAISED_IN_A_HOOK)), None)


def is_mistake(error: Exception, scene: Scene) -> bool:
    """Whether an error that the library has words for is all the same a strategy's own mistake.

    The engine may refuse an update: it has looked before it asks whether what was pruned can grow. A strategy may
    refuse a layout at the start; if it does, it may do so again in an update of a run that was started elsewhere.
    """
    place = hook_of(error)
    if place is None:
        return False
    if not isinstance(error, InputError):
        return True
    if any(place.startswith(f"{_RAISED_IN_A_HOOK}{hook!r} ") for hook in _OF_THE_START):
        return False
    return not any(_refuses_to_start({name: plugin}, scene) for name, plugin in scene.stack.items())


def _refuses_to_start(stack: Stack, scene: Scene) -> bool:
    try:
        Engine(scene.layout, fresh(stack), arrays=oracle_arrays(), seed=scene.seed).start(scene.sparsity)
    except InputError:
        return True
    return False


class BrokenError(AssertionError):
    """A promise that does not hold, in one sentence."""


class NotJudgedError(Exception):
    """An example that cannot tell whether a promise holds."""


def expect(holds: object, sentence: str) -> None:
    """Raise :class:`BrokenError` with this sentence unless it holds."""
    if not holds:
        raise BrokenError(sentence)


_QUOTED = 8
"""Entries of a list that a sentence quotes."""


def some(entries: Sequence[Any]) -> str:
    """A list for a sentence: its first entries, and how many there are."""
    if len(entries) <= _QUOTED:
        return str(list(entries))
    return f"[{', '.join(map(str, entries[:_QUOTED]))}, … {len(entries)} in all]"


def _always(_: Any) -> bool:
    return True


@attrs.frozen(eq=False)
class Promise:
    """One promise.

    Attributes:
        name: a word or two, joined by '-'.
        sentence: what is promised.
        examples: from the subject, what the check is to be tried on.
        check: is given the subject and an example, and raises :class:`BrokenError` where the promise does not hold.
        hooks: the steps whose broken answers, stopped by the engine, break this promise; 'strategy_state' for what
            strategies remember.
        errors: whether an error that a hook raises breaks this promise.
        applies: whether the subject promises this at all.
        share: of the examples that are asked for; less than 1 where fewer find as much, or each takes long.
    """

    name: str
    sentence: str
    examples: Callable[[Any], SearchStrategy[Any]]
    check: Callable[[Any, Any], None]
    hooks: Sequence[str | None] = ()
    errors: bool = False
    applies: Callable[[Any], bool] = _always
    share: float = 1.0
