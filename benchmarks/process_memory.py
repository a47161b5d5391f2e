"""The memory of this process, as the system counts it: what is resident, and the most that was (Linux with glibc)."""

import ctypes
import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path

ENVIRONMENT: Mapping[str, str] = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""With these the C library gives memory back as soon as it is free, and what was free before hides no rise.

They count from a process's start, so that a measurement needs a process of its own.
"""

_STATUS = Path("/proc/self/status")


def prepare(*, is_counted: bool = True) -> None:
    """Set what processes started from now on have in their environment; end this one where nothing can be measured.

    Args:
        is_counted: whether their memory is measured; where it is not, they have nothing of this, as it takes time.
    """
    if not is_counted:
        for name in ENVIRONMENT:
            os.environ.pop(name, None)
        return
    if not _STATUS.exists():
        raise SystemExit("memory is measured on Linux only")
    os.environ.update(ENVIRONMENT)


def rise(action: Callable[[], object]) -> int:
    """Bytes by which the process rose above where it was, at most, during the action; its result counts."""
    forget()
    before = resident()
    kept = action()
    risen = highest() - before
    del kept
    return risen


def forget() -> None:
    """The highest is from now on counted anew, and memory that is free is given back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def resident() -> int:
    """Bytes now."""
    return _bytes("VmRSS")


def highest() -> int:
    """The most bytes since :func:`forget`."""
    return _bytes("VmHWM")


def _bytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
