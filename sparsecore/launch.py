"""Which of several processes this one is, as launchers such as torchrun tell them in their environment."""

import math
import os
from collections.abc import Mapping

import attrs

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
