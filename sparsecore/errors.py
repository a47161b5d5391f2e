"""Every error is a sentence: what was given, what was expected, what exists."""

from collections.abc import Iterable


def printable(text: str) -> str:
    """The text with what a terminal would obey (line ends, escapes) written out, on one line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    """The text with what a terminal would obey written out, but for its line ends and tabs."""
    return "".join(letter if letter in "\n\t" else printable(letter) for letter in text)


def without_controls(text: str) -> str:
    """The text of a page, with what no page may have (escapes and the like) replaced; line ends stay."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


class SparsecoreError(Exception):
    """Anything sparsecore raises on purpose.

    Attributes:
        reported_by: of the ranks that train one network together, the one that says this to people, because all others
            know of it; None where they may not, and it is said once on every machine.
    """

    reported_by: int | None = None


class InputError(SparsecoreError, ValueError):
    """The user gave something that cannot be used; the command line ends with exit status 2."""


class InputWarning(UserWarning):
    """What the user gave can be used, and is probably not what was meant; the command line says it as a sentence."""


class SparsityWarning(InputWarning):
    """A strategy starts at another sparsity than the one that was asked for."""


class LostWeightsWarning(InputWarning):
    """Weights that look trained are about to become zero."""


class PluginError(InputError):
    """A plugin cannot be found, loaded or registered."""


class InvariantError(SparsecoreError):
    """A plugin's answer broke a promise of the engine; the message names the plugin and the step.

    Attributes:
        hook: the step, or 'strategy_state'; None where it cannot be told which it was.
    """

    def __init__(self, sentence: str, hook: str | None = None) -> None:
        super().__init__(sentence)
        self.hook = hook


class NoRoomError(SparsecoreError):
    """More weights were freed than there are free positions to grow into."""


class DisagreementError(SparsecoreError):
    """The processes that train one network together have come to different results, or one of them failed."""


class DivergedError(SparsecoreError):
    """Training produced a loss or a weight that is not finite."""


def unknown(what: str, name: object, known: Iterable[str], known_as: str = "known") -> str:
    """The sentence for a name that does not exist.

    >>> unknown("strategy", "rigel", ["set", "dpr"], "installed")
    "no strategy named 'rigel'; installed: dpr, set"
    """
    return f"no {what} named {str(name)!r}; {known_as}: {', '.join(sorted(known)) or 'none'}"
