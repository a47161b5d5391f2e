"""Seconds of a call, taken only while no other program is busy (on Linux; elsewhere, all are taken)."""

import os
import time
from collections.abc import Callable
from pathlib import Path

_MOST_FOREIGN = 0.08
"""Of one core's time: what other programs may take while a sample is taken."""


def seconds(function: Callable[[], None]) -> float | None:
    """How long the call took; None if other programs kept a core busy meanwhile."""
    foreign, start = _foreign(), time.perf_counter()
    function()
    taken = time.perf_counter() - start
    return taken if _foreign() - foreign <= _MOST_FOREIGN * taken + 2 / _ticks() else None


def _foreign() -> float:
    """Seconds of processor time that other programs have had so far."""
    statistics = Path("/proc/stat")
    if not statistics.exists():
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen, *_ = statistics.read_text().split()[1:]
    busy = sum(map(int, (user, nice, system, interrupts, soft, stolen))) / _ticks()
    own = os.times()
    return busy - own.user - own.system


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")
