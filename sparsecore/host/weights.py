"""Parameters: the entries that exist end to end in flat vectors, and a view of them for each tensor."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.buffers import BufferPool
from sparsecore.learning.parameters import hash_slots

Index = NDArray[np.intp]


class Operand(Protocol):
    """A weight as operations take it: dense for as long as they compute, in one of three orders of its entries."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        ...

    @property
    def positions(self) -> Any:
        """The order row-major, to be given to the methods."""
        ...

    @property
    def by_tap(self) -> Any:
        """The order in which (out, in, height, width) is laid out as (height, width, in, out)."""
        ...

    @property
    def by_opposite_tap(self) -> Any:
        """The order as (height, width, out, in) with the kernel turned by half a circle."""
        ...

    def dense(self, memory: BufferPool, index: Any) -> NDArray[Any]:
        """The dense tensor as one run of entries, in this order."""
        ...

    def vector(self) -> NDArray[np.float64]:
        """The dense tensor in its own shape, in double precision: for the small tensors with an entry a channel."""
        ...

    def accumulate(self, dense: NDArray[Any], index: Any = None) -> None:
        """Add a dense gradient in this order, or row-major."""
        ...


@attrs.frozen(eq=False)
class WeightTensor:
    """One parameter tensor, of whose entries some exist; of a dense tensor all do.

    Attributes:
        shape: the dense shape.
        positions: which entries exist, row-major within the tensor, ascending.
        values: their values, a view of the flat vector.
        gradient: their gradients, likewise; operations add to it.
    """

    shape: tuple[int, ...]
    positions: Index
    values: NDArray[Any]
    gradient: NDArray[Any]
    _orders: dict[tuple[tuple[int, ...], bool], Index] = attrs.field(factory=dict, init=False, repr=False)

    @property
    def by_tap(self) -> Index:
        """Where the entries lie when (out, in, height, width) is laid out as (height, width, in, out)."""
        return self._moved((2, 3, 1, 0), flipped=False)

    @property
    def by_opposite_tap(self) -> Index:
        """Where they lie as (height, width, out, in) with the kernel turned by half a circle."""
        return self._moved((2, 3, 0, 1), flipped=True)

    @property
    def indices(self) -> tuple[Index, ...]:
        """All that is kept of where the entries lie: row-major, and in the orders that were asked for so far."""
        return self.positions, *self._orders.values()

    def whole(self) -> "WeightTensor":
        """The same tensor with all entries, zeros where none exists, and gradients of its own for all of them."""
        values = np.zeros(int(np.prod(self.shape)), self.values.dtype)
        values[self.positions] = self.values
        return WeightTensor(self.shape, np.arange(values.size), values, np.zeros_like(values))

    def dense(self, memory: BufferPool, index: Index) -> NDArray[Any]:
        """The dense tensor as one run of entries, in the order that ``index`` belongs to."""
        dense = memory.zeros(int(np.prod(self.shape)))
        dense[index] = self.values
        return dense

    def vector(self) -> NDArray[np.float64]:
        """The dense tensor in its own shape, in double precision: for the small tensors with an entry a channel."""
        dense = np.zeros(self.shape)
        dense.reshape(-1)[self.positions] = self.values
        return dense

    def accumulate(self, dense: NDArray[Any], index: Index | None = None) -> None:
        """Add the existing entries of a dense gradient, laid out as ``index`` says, or row-major."""
        entries = dense.reshape(-1).take(self.positions if index is None else index)
        np.add(self.gradient, entries, out=self.gradient, casting="same_kind")

    def _moved(self, order: tuple[int, ...], *, flipped: bool) -> Index:
        if (order, flipped) not in self._orders:
            self._orders[order, flipped] = self._laid_out(order, flipped=flipped)
        return self._orders[order, flipped]

    def _laid_out(self, order: tuple[int, ...], *, flipped: bool) -> Index:
        places = list(np.unravel_index(self.positions, self.shape))
        if flipped:
            places[2:] = [side - 1 - place for side, place in zip(self.shape[2:], places[2:], strict=True)]
        moved = np.ravel_multi_index([places[axis] for axis in order], [self.shape[axis] for axis in order])
        return np.asarray(moved, np.intp)


@attrs.frozen(eq=False)
class Vectors:
    """What some tensors consist of in training; every vector has one entry a weight.

    Attributes:
        values: the weights.
        gradient: of the loss.
        buffers: what the optimizer keeps, by name.
    """

    values: NDArray[Any]
    gradient: NDArray[Any]
    buffers: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, values: NDArray[Any], buffers: Mapping[str, NDArray[Any]]) -> "Vectors":
        """Copies of these values and buffers, in the dtype of the first."""
        copies = {name: buffer.astype(values.dtype) for name, buffer in buffers.items()}
        return cls(values.copy(), np.zeros_like(values), copies)

    @classmethod
    def start(cls, values: NDArray[Any], buffers: Sequence[str]) -> "Vectors":
        """A copy of these values, and buffers of zeros with these names."""
        return cls.of(values, {name: np.zeros_like(values) for name in buffers})

    def weight(self, shape: tuple[int, ...], slots: slice, positions: Index) -> WeightTensor:
        """The tensor whose entries lie at ``slots``."""
        return WeightTensor(shape, positions, self.values[slots], self.gradient[slots])


def runs(shapes: list[tuple[int, ...]]) -> Iterator[slice]:
    """Where dense tensors of these shapes lie, end to end."""
    first = 0
    for shape in shapes:
        last = first + int(np.prod(shape))
        yield slice(first, last)
        first = last


_BLOCK = 1 << 14
"""Positions that are hashed at a time: what is computed on the way stays in the cache."""


@attrs.frozen(eq=False)
class TiedWeight:
    """See :class:`sparsecore.host.weights.Operand`. Nothing of the dense size lives longer than a layer computes.

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

    def dense(self, memory: BufferPool, index: "_Order") -> NDArray[Any]:
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
        return self.dense(BufferPool(np.float64), self.positions).reshape(self.shape)

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
            yield slice(first, last), *hash_slots(np.arange(first, last), count, self.key)


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
