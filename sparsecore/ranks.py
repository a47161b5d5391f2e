"""Several processes that train one network together; each is a rank.

Every rank computes the same topology for itself: all of them see the same values, and every draw is the engine's. What
they tell one another is only that they agree. The files of a run and what it prints are the business of rank 0.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from sparsecore.arrays import Array
from sparsecore.clock import Clock
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

    def compare(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> bool:
        """Check now and then that all ranks hold the same values, whether weights move or not.

        Every rank calls it after each step. All of them compare at the end of an epoch, after the last step, and as
        often in between as costs little.

        Args:
            clock: the time after the step.
            values: vectors and tensors that must be equal bit for bit, by what they are ("the values of 'conv1'").

        Returns:
            Whether this was a step after which the ranks have compared, and agree.

        Raises:
            DisagreementError: the ranks do not agree, or one never came.
        """
        ...

    def compare_saved(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> None:
        """Compare what is being saved with what other ranks save at the same step; they need not save anything.

        Args:
            clock: the time.
            values: as in :meth:`compare`.

        Raises:
            DisagreementError: another rank saves something else.
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

    def compare(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> bool:  # noqa: ARG002
        """One process always agrees with itself."""
        return True

    def compare_saved(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> None:
        """Nobody else saves anything."""


def ranks_of(backend: Any) -> Ranks:
    """The ranks of a backend; one that knows of none trains alone."""
    ranks: Ranks = getattr(backend, "ranks", None) or Alone()
    return ranks
