"""Several processes that train one network together; each is a rank.

Every rank computes the same topology for itself: all of them see the same values, and every draw is the engine's. What
they tell one another is only that they agree. The files of a run and what it prints are the business of rank 0.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from sparsecore.engine import Advance

Result = TypeVar("Result")


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

    def jointly(self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:
        """What every rank does for itself before training; no rank goes on before all are done.

        Args:
            action: what is done; it need not be the same on all ranks.
            facts: what of its result must be the same on all ranks, by name.

        Raises:
            InputError: the action raised one on another rank.
            DisagreementError: the ranks do not agree on a fact, the action failed on another rank, or one of them
                never came. Where the action failed on this rank, its own error.
        """
        ...

    def together(self, advance: Callable[[], Advance]) -> Advance:
        """What follows an optimizer step, done by every rank for itself; where weights move, all must agree.

        Raises:
            DisagreementError: the ranks do not agree, another one failed, or one never came. Where this rank failed,
                its own error.
        """
        ...


class Alone:
    """One process, which agrees with itself."""

    rank = 0
    size = 1

    def jointly(self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:  # noqa: ARG002
        """What is done before training."""
        return action()

    def together(self, advance: Callable[[], Advance]) -> Advance:
        """What follows an optimizer step."""
        return advance()


def ranks_of(backend: Any) -> Ranks:
    """The ranks of a backend; one that knows of none trains alone."""
    ranks: Ranks = getattr(backend, "ranks", None) or Alone()
    return ranks
