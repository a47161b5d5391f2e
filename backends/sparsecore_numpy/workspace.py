"""What every operation works with: memory to use again, and the cores."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.buffers import BufferPool
from sparsecore.host.threads import WorkerPool, divided

BLOCK_BYTES = 1 << 20
"""Of each array, as much as takes part at a time in the passes of an elementwise operation: it stays in the cache."""

_ELEMENTS = 1 << 17
"""Fewer are not worth another thread."""


@attrs.frozen(eq=False)
class Block:
    """Some of an array's first axis, and room for as many lines (:func:`lines`) of it."""

    number: int
    rows: slice
    scratch: NDArray[Any]


@attrs.frozen(eq=False)
class Workspace:
    """Memory and cores."""

    memory: BufferPool
    workers: WorkerPool

    def by_blocks(self, function: Callable[[Block], None], array: NDArray[Any]) -> None:
        """Call the function on blocks of the array's first axis, on all cores."""
        blocks = list(enumerate(_blocks(array)))

        def part(run: slice) -> None:
            scratch = self.memory.take(*lines(array[blocks[0][1]]).shape)
            for number, rows in blocks[run]:
                function(Block(number, rows, scratch[: len(lines(array[rows]))]))

        self.workers.each(part, divided(len(blocks), array.size, _ELEMENTS))


def block_count(array: NDArray[Any]) -> int:
    """How many blocks :meth:`Machine.by_blocks` makes of an array."""
    return len(_blocks(array))


def _blocks(array: NDArray[Any]) -> list[slice]:
    rows = max(1, BLOCK_BYTES * len(array) // array.nbytes)
    return [slice(first, first + rows) for first in range(0, len(array), rows)]


def lines(images: NDArray[Any]) -> NDArray[Any]:
    """Images as a matrix of their rows of pixels, (batch·height, width·channels); vectors as they are.

    NumPy's inner loops run along the last axis: the longer it is, the less they cost.
    """
    return images.reshape(-1, images.shape[-1] * (images.shape[-2] if images.ndim > 2 else 1))


def along_lines(channels: NDArray[Any], images: NDArray[Any]) -> NDArray[Any]:
    """A vector with one entry a channel, repeated for each pixel of a line of these images, in their dtype."""
    return np.tile(channels.astype(images.dtype), images.shape[-2] if images.ndim > 2 else 1)


def per_channel(sums: NDArray[Any], channels: int) -> NDArray[np.float64]:
    """Sums along lines as sums per channel."""
    return np.asarray(sums.reshape(-1, channels).sum(axis=0, dtype=np.float64))
