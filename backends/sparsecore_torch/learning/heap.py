"""The C library's heap, told to keep what a training step frees for the next one.

By default glibc gives the memory of all activations back to the system at a step's end, and each page of it that the
next step touches has to be cleared and mapped again: two to four percent of a step of WRN-28-2.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_LARGEST_ON_HEAP = 2**30


def keep_freed_memory() -> bool:
    """Keep it from now on, in the whole process; whether the C library can be told (glibc can)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ON_HEAP))
