"""Promises: statements about strategies and backends, each with the check that decides whether it holds.

The test classes, the command line and the kit's own tests all use the same lists of promises.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from hypothesis.strategies import SearchStrategy

from sparsecore.engine.engine import Engine
from sparsecore.errors import InputError
from sparsecore.testing.scenarios import Scenario
from sparsecore.testing.starts import start
from sparsecore.testing.subjects import Stack, fresh_copies, oracle_arrays


class BrokenPromiseError(AssertionError):
    """A promise does not hold; the message says in a sentence what was found."""


class InconclusiveError(Exception):
    """An example does not show whether a promise holds."""


def _always(_: Any) -> bool:
    return True


@attrs.frozen(eq=False)
class Promise:
    """A promise of a strategy or a backend.

    Attributes:
        name: one or two words, joined by '-'.
        sentence: what is promised.
        examples: returns, for the subject, a hypothesis strategy for the examples to check.
        check: takes the subject and an example, and raises :class:`BrokenPromiseError` if the promise does not hold.
        hooks: the hooks whose invalid results, which the engine refuses, break this promise; 'strategy_state' stands
            for the states of strategies.
        errors: whether an error that a hook raises breaks this promise.
        applies: whether the subject makes this promise at all.
        fraction: the fraction of the requested examples that is checked; below 1 if fewer suffice or each is slow.
    """

    name: str
    sentence: str
    examples: Callable[[Any], SearchStrategy[Any]]
    check: Callable[[Any, Any], None]
    hooks: Sequence[str | None] = ()
    errors: bool = False
    applies: Callable[[Any], bool] = _always
    fraction: float = 1.0


def expect(condition: object, sentence: str) -> None:
    """Check a condition.

    Args:
        condition: anything; its truth counts.
        sentence: what was found instead, for readers of the report of the check.

    Raises:
        BrokenPromiseError: the condition is false; the message is the sentence.
    """
    if not condition:
        raise BrokenPromiseError(sentence)


_QUOTED = 8
"""How many entries of a list a sentence quotes."""


def abbreviated(entries: Sequence[Any]) -> str:
    """Return a list for a sentence.

    Args:
        entries: of any length.

    Returns:
        All entries if there are at most 8; else the first 8, and how many there are in all.
    """
    if len(entries) <= _QUOTED:
        return str(list(entries))
    return f"[{', '.join(map(str, entries[:_QUOTED]))}, … {len(entries)} in all]"


_RAISED_IN_A_HOOK = "raised in the hook "
"""The beginning of the note that the engine adds to an error of a plugin."""

_HOOKS_OF_THE_START = ("initial_topology", "initial_strategy_state", "start_values")
"""The hooks in which a strategy may refuse a network."""


def hook_note(error: BaseException) -> str | None:
    """Return the note that says which hook of which plugin raised an error.

    Args:
        error: an error from the engine or a plugin.

    Returns:
        The note that the engine has added to it; None if it was raised outside of all hooks.
    """
    notes: Iterable[str] = getattr(error, "__notes__", ())
    return next((note for note in notes if note.startswith(_RAISED_IN_A_HOOK)), None)


def is_strategy_error(error: Exception, scenario: Scenario) -> bool:
    """Return whether an error of the library's own types is a mistake of a strategy.

    An error that the engine raised is not: it checks before it allocates whether what was pruned can grow. A strategy
    may refuse a network at the start by an InputError; it may refuse the same network in an update too, because a
    scenario begins elsewhere. It may also need to know when the run ends.

    Args:
        error: an InputError, a NoRoomError or a DivergedError.
        scenario: the scenario in which it was raised.
    """
    note = hook_note(error)
    if note is None:
        return False
    if not isinstance(error, InputError):
        return True
    if any(note.startswith(f"{_RAISED_IN_A_HOOK}{hook!r} ") for hook in _HOOKS_OF_THE_START):
        return False
    if scenario.clock.total_steps is None:
        return False
    return not any(_refuses_to_start({name: plugin}, scenario) for name, plugin in scenario.stack.items())


def _refuses_to_start(stack: Stack, scenario: Scenario) -> bool:
    try:
        start(
            Engine(scenario.layout, fresh_copies(stack), arrays=oracle_arrays(), seed=scenario.seed), scenario.sparsity
        )
    except InputError:
        return True
    return False
