"""A pool of arrays: memory that one operation no longer needs serves the next one."""

import math
import threading
import weakref
from bisect import bisect_left, insort
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 64
"""Bytes of a cache line. The alignment is constant, as NumPy may add in another order at another alignment."""


_MOST_WASTE = 2
"""How many times as large as an array its block may be; else small arrays could occupy large blocks for long."""


class BufferPool:
    """A pool of arrays of one dtype; their memory returns to it when the last view of an array is gone."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._own = _Blocks()

    def take(self, *shape: int) -> NDArray[Any]:
        """An array with arbitrary entries.

        Args:
            shape: the length of each side; none for an array of a single number.

        Returns:
            A contiguous array of the pool's dtype, aligned to a cache line of 64 bytes. When its last view is gone, its
            memory returns to the blocks of the thread that called this.
        """
        block = self._own.take(max(math.prod(shape), 1) * self.dtype.itemsize)
        lease = _Lease(block, shape, self.dtype)
        weakref.finalize(lease, self._own.returned.append, block).atexit = False
        return np.asarray(lease)

    def zeros(self, *shape: int) -> NDArray[Any]:
        """An array of zeros, otherwise as :meth:`take` returns it.

        Args:
            shape: the length of each side.
        """
        array = self.take(*shape)
        array.fill(0)
        return array


class _Blocks(threading.local):
    """The blocks that are not in use. Each thread has its own, so that they stay in the cache of its core."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        # an array's life may end in the middle of `take`, or on another thread: its end only appends
        self.returned: deque[NDArray[np.uint8]] = deque()

    def take(self, size: int) -> NDArray[np.uint8]:
        while self.returned:
            insort(self._free, self.returned.popleft(), key=len)
        smallest = bisect_left(self._free, size, key=len)
        fits = smallest < len(self._free) and len(self._free[smallest]) <= _MOST_WASTE * size
        return self._free.pop(smallest) if fits else _aligned(size)


class _Lease:
    """The memory of one array: it is alive as long as the array or a view of it is."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, block: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        # were the array a view of the block, NumPy would let views of it keep just the block alive
        data = block.__array_interface__["data"]
        self.__array_interface__ = {"version": 3, "data": data, "shape": shape, "typestr": dtype.str}


def _aligned(size: int) -> NDArray[np.uint8]:
    block = np.empty(size + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + size]
