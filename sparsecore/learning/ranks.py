"""Several processes that train one network together; each is a rank.

Every rank computes the same topology for itself: all of them see the same values, and every draw is the engine's. What
they tell one another is only that they agree. The files of a run and what it prints are the business of rank 0.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import attrs

from sparsecore.engine.arrays import Array
from sparsecore.engine.engine import Advance
from sparsecore.engine.schedules import Clock
from sparsecore.errors import InputError

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@attrs.frozen
class Launch:
    """A process among those that were started together.

    Attributes:
        rank: 0 to size-1.
        size: how many there are.
        local_rank: the rank among those on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """This process; the only one where no launcher says otherwise.

    Raises:
        InputError: what the environment says is no rank.
    """
    if not all(environment.get(name) for name in _TOLD):
        return Launch()
    told = {name: environment.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if not all(number.isascii() and number.isdigit() for number in told.values()):
        raise InputError(f"the environment says {_written(told)}; expected numbers, as torchrun sets them")
    rank, size, local_rank = map(int, told.values())
    if not local_rank <= rank < size:
        raise InputError(f"the environment says {_written(told)}; ranks go from 0 to WORLD_SIZE-1")
    return Launch(rank, size, local_rank)


RANK_TIMEOUT = "SPARSECORE_RANK_TIMEOUT"
"""The environment variable that says how many seconds a rank waits for the others."""


def rank_timeout(environment: Mapping[str, str] = os.environ) -> float | None:
    """How many seconds a rank waits for the others; None where the environment says nothing.

    Raises:
        InputError: what the environment says is no number of seconds.
    """
    told = environment.get(RANK_TIMEOUT)
    if not told:
        return None
    try:
        seconds = float(told)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST:
        raise InputError(f"{RANK_TIMEOUT} is a number of seconds, above 0 and up to {_LONGEST:,}; given {told!r}")
    return seconds


_LONGEST = 7 * 24 * 3600


def _written(told: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={number}" for name, number in told.items())


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

    def said_by_first(self, text: str) -> str:
        """The text that rank 0 gives; every rank calls it, and gives one of its own that is not read.

        Raises:
            DisagreementError: rank 0 has ended or never came.
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


class SingleProcess:
    """One process, which agrees with itself."""

    rank = 0
    size = 1

    def jointly(self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:  # noqa: ARG002
        """What is done before training."""
        return action()

    def said_by_first(self, text: str) -> str:
        """What this process says to itself."""
        return text

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
    ranks: Ranks = getattr(backend, "ranks", None) or SingleProcess()
    return ranks
