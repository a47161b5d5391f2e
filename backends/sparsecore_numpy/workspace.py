"""The resources of operations on NumPy: memory that is reused, and threads on all cores.

NumPy releases the interpreter's lock while it copies, adds and multiplies matrices. So a thread that takes some images
through all passes of an operation keeps them in its core's cache, and passes that are no matrix products run on all
cores too, while BLAS keeps to one thread. How the work is divided depends on its size alone, never on the machine:
results do not depend on the number of cores.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.extras import require
from sparsecore.host.buffers import BufferPool

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")

MOST_PARTS = 8

BLOCK_BYTES = 1 << 20
"""Bytes of each array that take part at a time in the passes of an elementwise operation, so that they stay cached."""

_ELEMENTS = 1 << 17
"""The number of elements that is worth another thread."""


@attrs.frozen(eq=False)
class WorkerPool:
    """Threads that share the parts of one operation.

    Attributes:
        count: how many threads work at the same time, the calling one included.
    """

    count: int
    _pool: ThreadPoolExecutor | None = attrs.field(init=False, repr=False)

    @_pool.default
    def _start(self) -> ThreadPoolExecutor | None:
        return ThreadPoolExecutor(self.count - 1, "sparsecore-numpy") if self.count > 1 else None

    def each(self, function: Callable[[Part], None], parts: Sequence[Part]) -> None:
        """Call the function on every part; return when all are done.

        Args:
            function: called on each part, on any thread and in any order.
            parts: the parts.

        Raises:
            Exception: what the function raised, once all threads have stopped.
        """
        waiting = deque(parts)

        def work() -> None:
            while waiting:
                try:
                    part = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                function(part)

        helpers = self._helpers(work, len(parts))
        try:
            work()
        finally:
            for helper in helpers:
                helper.exception()  # waits for it: no part may still be at work on arrays that the caller lets go of
        for helper in helpers:
            helper.result()

    def _helpers(self, work: Callable[[], None], parts: int) -> list[Future[None]]:
        if self._pool is None:
            return []
        # with the caller's context, which holds NumPy's settings about floating-point errors
        return [self._pool.submit(copy_context().run, work) for _ in range(min(self.count, parts) - 1)]


def divided(count: int, work: float, grain: float) -> list[slice]:
    """Divide items into slices of equal length, at most one item longer than others.

    Args:
        count: the number of items.
        work: the work of all items, in any unit.
        grain: the work that is worth a slice of its own, in the same unit.

    Returns:
        From one to ``MOST_PARTS`` slices in ascending order; the machine has no influence on them.
    """
    parts = max(1, min(MOST_PARTS, count, int(work / grain)))
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]


@cache
def worker_pool() -> WorkerPool:
    """The threads of this process, as many as BLAS is configured to use.

    Raises:
        MissingPackageError: threadpoolctl is not installed.
    """
    threads = [library["num_threads"] for library in _blas().info()]
    return WorkerPool(max(threads, default=os.cpu_count() or 1))


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Within it, each call of BLAS runs on the calling thread alone; afterwards BLAS is as it was.

    Raises:
        MissingPackageError: threadpoolctl is not installed.
    """
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> "ThreadpoolController":
    require("threadpoolctl", extra="cli", purpose="training on the processor")
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@attrs.frozen(eq=False)
class Block:
    """A part of an array's first axis.

    Attributes:
        number: its place among the array's blocks.
        rows: the part.
        scratch: memory for as many lines (:func:`lines`).
    """

    number: int
    rows: slice
    scratch: NDArray[Any]


@attrs.frozen(eq=False)
class Workspace:
    """The memory and the threads of one network.

    Attributes:
        memory: arrays that are reused.
        workers: the threads.
    """

    memory: BufferPool
    workers: WorkerPool

    def by_blocks(self, function: Callable[[Block], None], array: NDArray[Any]) -> None:
        """Call the function on blocks of the array's first axis, on all cores.

        Args:
            function: called on each block, on any thread.
            array: the array; each block has about :data:`BLOCK_BYTES` of it.
        """
        blocks = list(enumerate(_blocks(array)))

        def part(run: slice) -> None:
            scratch = self.memory.take(*lines(array[blocks[0][1]]).shape)
            for number, rows in blocks[run]:
                function(Block(number, rows, scratch[: len(lines(array[rows]))]))

        self.workers.each(part, divided(len(blocks), array.size, _ELEMENTS))


def block_count(array: NDArray[Any]) -> int:
    """How many blocks :meth:`Workspace.by_blocks` makes of an array; the blocks' numbers are below it.

    Args:
        array: whose shape and dtype decide, not its entries.
    """
    return len(_blocks(array))


def _blocks(array: NDArray[Any]) -> list[slice]:
    rows = max(1, BLOCK_BYTES * len(array) // array.nbytes)
    return [slice(first, first + rows) for first in range(0, len(array), rows)]


def lines(images: NDArray[Any]) -> NDArray[Any]:
    """Images as a matrix of their rows of pixels; vectors as they are.

    NumPy's inner loops run along the last axis: the longer it is, the less they cost.

    Args:
        images: (batch, height, width, channels), or vectors (batch, features).

    Returns:
        (batch·height, width·channels), or (batch, features).
    """
    return images.reshape(-1, images.shape[-1] * (images.shape[-2] if images.ndim > 2 else 1))


def along_lines(channels: NDArray[Any], images: NDArray[Any]) -> NDArray[Any]:
    """A vector over channels, repeated for each pixel of a line (see :func:`lines`).

    Args:
        channels: (channels,).
        images: (batch, height, width, channels), or vectors, whose dtype the result has.

    Returns:
        (width·channels,), or (channels,) for vectors.
    """
    return np.tile(channels.astype(images.dtype), images.shape[-2] if images.ndim > 2 else 1)


def per_channel(sums: NDArray[Any], channels: int) -> NDArray[np.float64]:
    """Sums over lines as sums over pixels.

    Args:
        sums: (width·channels,).
        channels: the number of channels.

    Returns:
        float64, (channels,).
    """
    return np.asarray(sums.reshape(-1, channels).sum(axis=0, dtype=np.float64))
