"""Several processes that train one network together; each is a rank.

Every rank computes the same topology for itself, from the same values and the engine's random numbers; ranks only
compare whether they agree. Rank 0 alone writes the files of a run and prints.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import attrs

from sparsecore.engine.arrays import Array
from sparsecore.engine.groups import AnyAdvance
from sparsecore.engine.schedules import Clock
from sparsecore.errors import InputError

_REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@attrs.frozen
class Launch:
    """The place of this process among those that a launcher started together.

    Attributes:
        rank: 0 to size-1.
        size: the number of processes.
        local_rank: the rank among the processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return the launch of this process, by the environment variables that torchrun sets; a single one without them.

    Args:
        environment: the environment variables.

    Raises:
        InputError: they are no ranks.
    """
    if not all(environment.get(name) for name in _REQUIRED):
        return Launch()
    variables = {name: environment.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if not all(number.isascii() and number.isdigit() for number in variables.values()):
        raise InputError(f"the environment says {_written(variables)}; expected numbers, as torchrun sets them")
    rank, size, local_rank = map(int, variables.values())
    if not local_rank <= rank < size:
        raise InputError(f"the environment says {_written(variables)}; ranks go from 0 to WORLD_SIZE-1")
    return Launch(rank, size, local_rank)


RANK_TIMEOUT = "SPARSECORE_RANK_TIMEOUT"
"""The environment variable with the seconds that a rank waits for the others."""


def rank_timeout(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds that a rank waits for the others; None if :data:`RANK_TIMEOUT` is not set.

    Args:
        environment: the environment variables.

    Raises:
        InputError: it is no number of seconds.
    """
    text = environment.get(RANK_TIMEOUT)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST:
        raise InputError(f"{RANK_TIMEOUT} is a number of seconds, above 0 and up to {_LONGEST:,}; given {text!r}")
    return seconds


_LONGEST = 7 * 24 * 3600


def _written(variables: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={number}" for name, number in variables.items())


Result = TypeVar("Result")


class Ranks(Protocol):
    """The collective operations that the training loop requires: every rank calls each of them equally often."""

    @property
    def rank(self) -> int:
        """The rank of this process, 0 to size-1; rank 0 writes the files of a run."""
        ...

    @property
    def size(self) -> int:
        """The number of ranks."""
        ...

    def jointly(self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:
        """Run an action on every rank before training; no rank continues before all are done. Collective.

        Args:
            action: the action, which may differ between ranks.
            facts: the facts of its result that must be the same on all ranks, by name.

        Returns:
            The result of the action on this rank.

        Raises:
            InputError: the action raised one on another rank.
            DisagreementError: the ranks do not agree on a fact, the action failed on another rank, or a rank did not
                call this in time. If the action failed on this rank, its own error is raised.
        """
        ...

    def text_of_rank_0(self, text: str) -> str:
        """Return the text of rank 0; every rank must call this, and the texts of the others are ignored.

        Args:
            text: of any length, such as the name of a file that rank 0 has chosen.

        Raises:
            DisagreementError: rank 0 has ended or never came.
        """
        ...

    def together(self, advance: Callable[[], AnyAdvance]) -> AnyAdvance:
        """Advance the engine on every rank; where the topology changes, all ranks must agree. Collective.

        Args:
            advance: advances the engine on this rank.

        Raises:
            DisagreementError: the ranks do not agree, another rank failed, or did not call this in time. If this rank
                failed, its own error is raised.
        """
        ...

    def compare(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> bool:
        """Check from time to time that all ranks have the same values. Collective.

        Every rank calls it after each step. They compare at the end of an epoch, after the last step, and in between
        as often as costs little.

        Args:
            clock: the time after the step.
            values: computes the vectors and tensors that must be equal bit for bit, by name ("the values of 'conv1'").

        Returns:
            Whether the ranks compared after this step, and agree.

        Raises:
            DisagreementError: the ranks do not agree, or a rank did not call this in time.
        """
        ...

    def compare_saved(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> None:
        """Compare what this rank saves with what other ranks save at the same step, if they save anything.

        Args:
            clock: the time.
            values: as in :meth:`compare`.

        Raises:
            DisagreementError: another rank saves other values.
        """
        ...


class SingleProcess:
    """The ranks of a single process, which always agrees with itself."""

    rank = 0
    size = 1

    def jointly(self, action: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:  # noqa: ARG002
        """Run the action."""
        return action()

    def text_of_rank_0(self, text: str) -> str:
        """Return the text of this process."""
        return text

    def together(self, advance: Callable[[], AnyAdvance]) -> AnyAdvance:
        """Advance the engine."""
        return advance()

    def compare(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def compare_saved(self, clock: Clock, values: Callable[[], Mapping[str, Array]]) -> None:
        """Do nothing: there are no other ranks."""


def ranks_of(backend: Any) -> Ranks:
    """Return the ranks of a backend; a single process for a backend without the attribute ``ranks``.

    Args:
        backend: an instance of a plugin of the group ``sparsecore.backends``; its ``ranks`` may also be None.
    """
    ranks: Ranks = getattr(backend, "ranks", None) or SingleProcess()
    return ranks
