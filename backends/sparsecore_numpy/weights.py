"""Parameters: the entries that exist end to end in flat vectors, and a view of them for each tensor."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_numpy.memory import Memory

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

    def dense(self, memory: Memory, index: Any) -> NDArray[Any]:
        """The dense tensor as one run of entries, in this order."""
        ...

    def vector(self) -> NDArray[np.float64]:
        """The dense tensor in its own shape, in double precision: for the small tensors with an entry a channel."""
        ...

    def accumulate(self, dense: NDArray[Any], index: Any = None) -> None:
        """Add a dense gradient in this order, or row-major."""
        ...


@attrs.frozen(eq=False)
class Weight:
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

    def whole(self) -> "Weight":
        """The same tensor with all entries, zeros where none exists, and gradients of its own for all of them."""
        values = np.zeros(int(np.prod(self.shape)), self.values.dtype)
        values[self.positions] = self.values
        return Weight(self.shape, np.arange(values.size), values, np.zeros_like(values))

    def dense(self, memory: Memory, index: Index) -> NDArray[Any]:
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

    def weight(self, shape: tuple[int, ...], slots: slice, positions: Index) -> Weight:
        """The tensor whose entries lie at ``slots``."""
        return Weight(shape, positions, self.values[slots], self.gradient[slots])


def runs(shapes: list[tuple[int, ...]]) -> Iterator[slice]:
    """Where dense tensors of these shapes lie, end to end."""
    first = 0
    for shape in shapes:
        last = first + int(np.prod(shape))
        yield slice(first, last)
        first = last
