"""A weight whose entries are those of a shorter vector, by a hash that is evaluated anew wherever they are needed."""

import math
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.ties import tied_places
from sparsecore_numpy.memory import Memory
from sparsecore_numpy.weights import Operand

_BLOCK = 1 << 14
"""Positions that are hashed at a time: what is computed on the way stays in the cache."""


@attrs.frozen(eq=False)
class TiedWeight:
    """See :class:`sparsecore_numpy.weights.Operand`. Nothing of the dense size lives longer than a layer computes.

    Attributes:
        values: the shorter vector.
        shape: the dense shape.
        key: of the hash.
    """

    values: Operand
    shape: tuple[int, ...]
    key: int

    @property
    def positions(self) -> "_Order":
        """Row-major."""
        return _Order(tuple(range(len(self.shape))))

    @property
    def by_tap(self) -> "_Order":
        """(out, in, height, width) as (height, width, in, out)."""
        return _Order((2, 3, 1, 0))

    @property
    def by_opposite_tap(self) -> "_Order":
        """As (height, width, out, in) with the kernel turned by half a circle."""
        return _Order((2, 3, 0, 1), flipped=(2, 3))

    def dense(self, memory: Memory, index: "_Order") -> NDArray[Any]:
        """The dense tensor as one run of entries, in this order."""
        values = self.values.dense(memory, self.values.positions)
        rows, ordered = (memory.take(math.prod(self.shape)) for _ in range(2))
        for block, slots, signs in self._blocks():
            np.multiply(values[slots], signs.astype(values.dtype), out=rows[block])
        moved = index.of(rows.reshape(self.shape))
        ordered.reshape(moved.shape)[...] = moved
        return ordered

    def vector(self) -> NDArray[np.float64]:
        """The dense tensor in its own shape, in double precision."""
        return self.dense(Memory(np.float64), self.positions).reshape(self.shape)

    def accumulate(self, dense: NDArray[Any], index: "_Order | None" = None) -> None:
        """Add to each value's gradient those of all entries that it is."""
        rows = (index or self.positions).undone(dense, self.shape).reshape(-1)
        count = math.prod(self.values.shape)
        total = np.zeros(count)
        for block, slots, signs in self._blocks():
            total += np.bincount(slots, rows[block] * signs, count)
        self.values.accumulate(total)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        size, count = math.prod(self.shape), math.prod(self.values.shape)
        for first in range(0, size, _BLOCK):
            last = min(first + _BLOCK, size)
            yield slice(first, last), *tied_places(np.arange(first, last), count, self.key)


@attrs.frozen
class _Order:
    """How a tensor is laid out: its axes in this order, after some are turned round."""

    axes: tuple[int, ...]
    flipped: tuple[int, ...] = ()

    def of(self, tensor: NDArray[Any]) -> NDArray[Any]:
        return np.flip(tensor, self.flipped).transpose(self.axes)

    def undone(self, laid_out: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        tensor = laid_out.reshape([shape[axis] for axis in self.axes]).transpose(np.argsort(self.axes))
        return np.flip(tensor, self.flipped)
