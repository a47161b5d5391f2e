"""Every error is a sentence: what was given, what was expected, what exists."""

import re
from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """Return the text on one line, with control characters such as line ends and escapes written out."""
    return text if text.isprintable() else "".join(map(_written_out, text))


def printable_lines(text: str) -> str:
    """Return the text with control characters written out, except for line ends and tabs."""
    return _UNUSUAL.sub(lambda letter: _written_out(letter[0]), text)


def without_controls(text: str) -> str:
    """Return the text with control characters replaced, except for line ends and tabs, as XML and HTML need it."""
    return _UNUSUAL.sub(lambda letter: letter[0] if letter[0].isprintable() else "\ufffd", text)


_UNUSUAL = re.compile(r"[^ -~\n\t]")
"""What is neither printable ASCII nor a line end or a tab; drawings have millions of the others."""


def _written_out(letter: str) -> str:
    return letter if letter.isprintable() else repr(letter)[1:-1]


class SparsecoreError(Exception):
    """The base class of all errors that sparsecore raises on purpose.

    Attributes:
        reported_by: where several ranks train one network and all know of the error, the rank that prints it; None
            where others may not know of it, and the first rank of each machine prints it.
    """

    reported_by: int | None = None


class InputError(SparsecoreError, ValueError):
    """Input of the user cannot be used; the command line ends with exit status 2."""


class InputWarning(UserWarning):
    """Input of the user can be used but is probably not what was meant; the command line prints it as a sentence."""


class SparsityWarning(InputWarning):
    """A strategy starts at another sparsity than the requested one."""


class LostWeightsWarning(InputWarning):
    """Weights that look trained are about to become zero."""


class ObserverWarning(InputWarning):
    """An observer has failed and is no longer called; the training goes on."""


class PluginError(InputError):
    """A plugin cannot be found, loaded or registered."""


class InvariantError(SparsecoreError):
    """The result of a hook breaks a promise of the engine; the message names the plugin and the hook.

    Attributes:
        hook: the hook, or 'strategy_state'; None where it is not known which one it was.
    """

    def __init__(self, sentence: str, hook: str | None = None) -> None:
        super().__init__(sentence)
        self.hook = hook


class NoRoomError(SparsecoreError):
    """More weights were freed than there are free positions to grow into."""


class DisagreementError(SparsecoreError):
    """Processes that train one network together have different results, or one of them failed."""


class DivergedError(SparsecoreError):
    """Training produced a loss or a weight that is not finite."""


def listed(names: Sequence[str], most: int, rest: str = "more") -> str:
    """Return names for a sentence: the first of them, and how many there are besides.

    Args:
        names: in the order in which they are shown.
        most: how many are shown.
        rest: what the others are, behind their number.
    """
    others = f" and {len(names) - most} {rest}" if len(names) > most else ""
    return ", ".join(names[:most]) + others


def unknown(what: str, name: object, known: Iterable[str], known_as: str = "known") -> str:
    """Return the sentence for a name that does not exist.

    >>> unknown("strategy", "rigel", ["set", "dpr"], "installed")
    "no strategy named 'rigel'; installed: dpr, set"

    Args:
        what: what was looked for, as in "strategy".
        name: the name that was given.
        known: the names that exist; sorted in the sentence.
        known_as: what these are, as in "installed".
    """
    return f"no {what} named {str(name)!r}; {known_as}: {', '.join(sorted(known)) or 'none'}"
