"""Promises: what the kit says of strategies and backends, each with the check that finds out.

A promise is a value. The test classes, the command line, and the tests of the kit itself all go through the same lists.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from hypothesis.strategies import SearchStrategy


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
        hooks: the steps whose broken answers, stopped by the engine, break this promise; 'memory' for memories.
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
