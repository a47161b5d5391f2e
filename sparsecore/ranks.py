"""Several processes that train one network together; each is a rank."""

from collections.abc import Callable
from typing import Protocol

from sparsecore.engine import Advance


class Ranks(Protocol):
    """What the training loop asks of the processes that take part."""

    @property
    def rank(self) -> int:
        """This process, 0 to size-1; the files of a run are rank 0's."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def together(self, advance: Callable[[], Advance]) -> Advance:
        """What follows an optimizer step, done by every rank for itself; where weights move, all must agree.

        Raises:
            DisagreementError: the ranks do not agree, or one of them failed; the same error on all ranks.
        """
        ...


class Alone:
    """One process, which agrees with itself."""

    rank = 0
    size = 1

    def together(self, advance: Callable[[], Advance]) -> Advance:
        """What follows an optimizer step."""
        return advance()
