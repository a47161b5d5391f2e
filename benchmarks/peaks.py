"""What one core of this machine can do at most, measured by a few lines of C++ that are compiled when asked for."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import numpy as np

SIZES: Mapping[str, int] = {"L1": 2**14, "L2": 2**19, "L3": 2**24, "memory": 2**29}
"""Bytes that fit the cache of this name on most processors, and that fit none."""

_SOURCE = Path(__file__).with_name("peaks.cpp")
_VECTORS = 2**25  # a fraction of a second
_REPEATED = 7


@attrs.frozen
class Peaks:
    """Of one thread.

    Attributes:
        multiply_adds: single ones a second, all operands in registers.
        reading: likewise, where one operand of each is read from the memory of this name (:data:`SIZES`).
    """

    multiply_adds: float
    reading: Mapping[str, float]

    @classmethod
    def measured(cls, lanes: int) -> "Peaks":
        """With vectors of so many lanes; ends the program where there is no compiler."""
        with tempfile.TemporaryDirectory() as folder:
            library = ctypes.CDLL(str(_compiled(lanes, Path(folder))))
            library.between_registers.argtypes = [ctypes.c_int64]
            library.from_memory.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
            count = 16 * _VECTORS
            seconds = _least(lambda: library.between_registers(count))
            reading = {name: _read(library, size, lanes) for name, size in SIZES.items()}
            return cls(count * lanes / seconds, reading)

    def bandwidth(self, level: str) -> float:
        """Bytes a second that are read from there."""
        return 4 * self.reading[level]


def _read(library: ctypes.CDLL, size: int, lanes: int) -> float:
    memory = np.ones(size // 4 + 16, np.float32)
    start = memory.ctypes.data + -memory.ctypes.data % 64
    vectors = size // (4 * lanes)
    times = max(1, _VECTORS // vectors)
    return vectors * times * lanes / _least(lambda: library.from_memory(start, vectors, times))


def _least(function: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls."""
    taken = []
    for _ in range(_REPEATED):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _compiled(lanes: int, folder: Path) -> Path:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        raise SystemExit("the roofline needs a C++ compiler, and there is none; CXX names another one")
    library = folder / "peaks.so"
    options = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", f"-DLANES={lanes}", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, str(_SOURCE), "-o", str(library)], check=True)
    return library
