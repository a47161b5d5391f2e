"""Weights as the operations of a host backend read them, and views of flat vectors that implement it."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.buffers import BufferPool
from sparsecore.host.input_norms import InputMeter

Index = NDArray[np.intp]


class WeightSource(Protocol):
    """A weight that operations read entry by entry, or as a dense tensor in one of three orders of its axes.

    The three orders are handles: their type is the implementation's own, and they are passed back to its methods.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        ...

    @property
    def owner(self) -> Any:
        """The object that lives as long as :attr:`positions` stay the same; caches are keyed by it."""
        ...

    @property
    def positions(self) -> NDArray[np.integer]:
        """Row-major positions of the active entries, ascending, (count,)."""
        ...

    @property
    def is_trained(self) -> bool:
        """Whether its gradient is needed."""
        ...

    def entries(self, pool: BufferPool) -> NDArray[Any]:
        """The value of each active entry, in the order of :attr:`positions`.

        Args:
            pool: the memory of the result, where values are computed; what is stored is returned as it is.

        Returns:
            (count,), to be read only.
        """
        ...

    def add_gradient(self, gradient: NDArray[Any]) -> None:
        """Add to the gradients of the active entries.

        Args:
            gradient: (count,), in the order of :attr:`positions`, or the array that :meth:`gradient_memory` returned.
        """
        ...

    def gradient_memory(self) -> NDArray[Any] | None:
        """The gradients' own memory, (count,), if what it holds is no matter: the next gradient may be written there.

        Returns:
            An array that :meth:`add_gradient` takes, which then copies and adds nothing; None if there are gradients.
        """
        ...

    def measure_input(self, squares: Callable[[], NDArray[np.float64]]) -> None:
        """Take note of the inputs that a layer multiplies by the weight, where a strategy asks for their norms.

        Args:
            squares: computes the sum of the squares of each input over examples and pixels, (in,).
        """
        ...

    def take_factors(self, factors: "Callable[[], GradientFactors]") -> bool:
        """Take the gradient of all positions of a matrix, where it is asked for, in place of that of the active ones.

        Args:
            factors: returns the matrices whose product it is.

        Returns:
            Whether it has been taken; otherwise the gradient of the active entries is still to be added.
        """
        ...

    @property
    def row_major(self) -> Any:
        """The order (out, in, height, width), or (out, in)."""
        ...

    @property
    def by_tap(self) -> Any:
        """The order (height, width, in, out)."""
        ...

    @property
    def by_opposite_tap(self) -> Any:
        """The order (height, width, out, in) with the kernel rotated by 180 degrees."""
        ...

    def to_dense(self, pool: BufferPool, order: Any) -> NDArray[Any]:
        """The dense tensor in this order, flat, (size,); inactive entries are zero.

        Args:
            pool: the memory of the result.
            order: one of the three orders of this weight.
        """
        ...

    def to_array(self) -> NDArray[np.float64]:
        """The dense tensor in its own shape, in float64; meant for small tensors."""
        ...

    def add_dense_gradient(self, dense: NDArray[Any], order: Any = None) -> None:
        """Add the active entries of a dense gradient in this order, row-major by default.

        Args:
            dense: a gradient for every entry, of any shape with as many entries.
            order: the order of its entries, one of the three orders of this weight.
        """
        ...


@attrs.frozen(eq=False)
class GradientFactors:
    """The gradient of a matrix as a product, ``outputs @ inputs.T``.

    Attributes:
        outputs: the gradient of the layer's outputs, (out, batch).
        inputs: the layer's inputs, (in, batch).
    """

    outputs: NDArray[Any]
    inputs: NDArray[Any]


@attrs.define
class _GradientState:
    """Whether a gradient is zero whatever its memory holds."""

    is_unwritten: bool = False


@attrs.frozen(eq=False)
class WeightView:
    """One parameter tensor as a view of its slots in the flat vectors; a dense tensor is active everywhere.

    Attributes:
        shape: the dense shape.
        positions: row-major positions of the active entries, ascending, (count,).
        values: their values, (count,), a view of the flat vector.
        gradient: their gradients, (count,), likewise; operations add to it.
        kept_for: lives as long as the positions stay the same; None for this view itself.
        is_trained: whether its gradient is needed.
        meter: takes note of its inputs; None where no strategy asks for their norms.
        product: takes the factors of the gradient of all positions; None where that is not asked for.
    """

    shape: tuple[int, ...]
    positions: Index
    values: NDArray[Any]
    gradient: NDArray[Any]
    kept_for: Any = None
    is_trained: bool = True
    meter: InputMeter | None = None
    product: Callable[[GradientFactors], None] | None = None
    _orders: dict[tuple[int, ...], Index] = attrs.field(factory=dict, init=False, repr=False)
    _state: _GradientState = attrs.field(factory=_GradientState, init=False, repr=False)

    @property
    def owner(self) -> Any:
        """By default this view, which a reallocation replaces."""
        return self if self.kept_for is None else self.kept_for

    def entries(self, pool: BufferPool) -> NDArray[Any]:  # noqa: ARG002
        """The values themselves, not a copy."""
        return self.values

    def add_gradient(self, gradient: NDArray[Any]) -> None:
        """Add to the gradients of the active entries, in place.

        Args:
            gradient: (count,), in the order of ``positions``; of any floating-point dtype, rounded to that of the flat
                vector.
        """
        if not self._state.is_unwritten:
            np.add(self.gradient, gradient, out=self.gradient, casting="same_kind")
        elif gradient is not self.gradient:
            np.copyto(self.gradient, gradient, casting="same_kind")
        self._state.is_unwritten = False

    def reset_gradient(self) -> None:
        """Set the gradient to zero when it is first added to, or by :meth:`finish_gradient`."""
        self._state.is_unwritten = True

    def finish_gradient(self) -> NDArray[Any]:
        """The gradient, (count,), where :meth:`reset_gradient` was called: zeros if nothing was added since."""
        if self._state.is_unwritten:
            self.gradient.fill(0)
            self._state.is_unwritten = False
        return self.gradient

    @property
    def has_gradient(self) -> bool:
        """Whether anything was added to the gradient since :meth:`reset_gradient`."""
        return not self._state.is_unwritten

    def gradient_memory(self) -> NDArray[Any] | None:
        """The gradient's array if nothing was added to it since :meth:`reset_gradient`."""
        return self.gradient if self._state.is_unwritten else None

    def measure_input(self, squares: Callable[[], NDArray[np.float64]]) -> None:
        """Add to the meter, if there is one."""
        if self.meter is not None:
            self.meter.add(squares())

    def take_factors(self, factors: Callable[[], GradientFactors]) -> bool:
        """Hand them on to :attr:`product`, if there is one."""
        if self.product is None:
            return False
        self.product(factors())
        return True

    def measured(self, meter: InputMeter) -> "WeightView":
        """The same weight, whose inputs a meter takes note of.

        Args:
            meter: the meter.
        """
        return attrs.evolve(self, meter=meter, kept_for=self.owner)

    @property
    def row_major(self) -> Index:
        """The index of each active entry in the row-major dense tensor."""
        return self.positions

    @property
    def by_tap(self) -> Index:
        """The index of each active entry in the dense tensor laid out as (height, width, in, out)."""
        return self._index((2, 3, 1, 0), rotated=False)

    @property
    def by_opposite_tap(self) -> Index:
        """The index of each active entry in the layout (height, width, out, in) of the rotated kernel."""
        return self._index((2, 3, 0, 1), rotated=True)

    @property
    def indices(self) -> tuple[Index, ...]:
        """All index arrays that are kept: the row-major one and those of the orders used so far."""
        return self.positions, *self._orders.values()

    def densified(self) -> "WeightView":
        """A copy with every entry active, zero where this one has none, and a gradient of its own."""
        values = np.zeros(math.prod(self.shape), self.values.dtype)
        values[self.positions] = self.values
        return WeightView(self.shape, np.arange(values.size), values, np.zeros_like(values))

    def widened(self, positions: Index) -> "tuple[WeightView, Index]":
        """A copy with further entries, which are zero, and a gradient of its own.

        Args:
            positions: row-major positions that are not active, ascending.

        Returns:
            The copy, and the slots in it of this view's entries.
        """
        wider = np.sort(np.concatenate([self.positions, positions]), kind="stable")
        slots = np.searchsorted(wider, self.positions)
        values = np.zeros(wider.size, self.values.dtype)
        values[slots] = self.values
        return WeightView(self.shape, wider, values, np.zeros_like(values)), slots

    def to_dense(self, pool: BufferPool, order: Index) -> NDArray[Any]:
        """The dense tensor, flat, with each active entry at its index in this order.

        Args:
            pool: the memory of the result.
            order: the index of each active entry, (count,), one of this view's three.

        Returns:
            (size,), in the dtype of the pool; zero where no entry is active.
        """
        dense = pool.zeros(math.prod(self.shape))
        dense[order] = self.values
        return dense

    def to_array(self) -> NDArray[np.float64]:
        """The dense tensor in its own shape, in float64."""
        dense = np.zeros(self.shape)
        dense.reshape(-1)[self.positions] = self.values
        return dense

    def add_dense_gradient(self, dense: NDArray[Any], order: Index | None = None) -> None:
        """Add the active entries of a dense gradient; the others are ignored.

        Args:
            dense: a gradient for every entry, of any shape with as many entries.
            order: the index of each active entry in it, (count,); row-major if None.
        """
        self.add_gradient(dense.reshape(-1).take(self.positions if order is None else order))

    def _index(self, axes: tuple[int, ...], *, rotated: bool) -> Index:
        if axes not in self._orders:
            coordinates = list(np.unravel_index(self.positions, self.shape))
            if rotated:
                coordinates[2:] = [
                    side - 1 - along for side, along in zip(self.shape[2:], coordinates[2:], strict=True)
                ]
            shape = [self.shape[axis] for axis in axes]
            self._orders[axes] = np.asarray(np.ravel_multi_index([coordinates[axis] for axis in axes], shape), np.intp)
        return self._orders[axes]
