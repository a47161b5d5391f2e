"""Arrays whose memory is used again: what one operation has let go of serves the next."""

import math
import threading
import weakref
from bisect import bisect_left, insort
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 64
"""Bytes: a cache line. NumPy may add in another order at another alignment, so it is always the same."""


_MOST_WASTE = 2
"""How much larger than an array its block may be. Small arrays that live long would else keep the large blocks."""


class BufferPool:
    """Hands out arrays of one dtype. Their memory comes back by itself when the last view of them is gone."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._own = _Blocks()

    def take(self, *shape: int) -> NDArray[Any]:
        """An array of this shape with arbitrary entries."""
        block = self._own.take(max(math.prod(shape), 1) * self.dtype.itemsize)
        lease = _Lease(block, shape, self.dtype)
        weakref.finalize(lease, self._own.returned.append, block).atexit = False
        return np.asarray(lease)

    def zeros(self, *shape: int) -> NDArray[Any]:
        """An array of zeros."""
        array = self.take(*shape)
        array.fill(0)
        return array


class _Blocks(threading.local):
    """The blocks that nobody uses. Each thread has its own, so that they stay in the cache of its core."""

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
    """Memory lent to an array: what the array and all its views keep alive, and nothing else does."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, block: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        # were the array a view of the block, NumPy would let views of it keep just the block alive
        data = block.__array_interface__["data"]
        self.__array_interface__ = {"version": 3, "data": data, "shape": shape, "typestr": dtype.str}


def _aligned(size: int) -> NDArray[np.uint8]:
    block = np.empty(size + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + size]
