"""Dense weights whose entries share the values of a shorter vector by a hash (HashedNets)."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.buffers import BufferPool
from sparsecore.host.weights import GradientFactors, WeightSource
from sparsecore.learning.parameters import hash_slots

_BLOCK = 1 << 14
"""Positions that are hashed at a time, so that intermediate results stay in the cache."""


@attrs.frozen(eq=False)
class TiedWeight:
    """A dense weight whose entries share the values of a shorter vector by a hash (HashedNets).

    Entry p is ξ(p)·shared[h(p)]; see :func:`sparsecore.learning.parameters.hash_slots`. Hashes are evaluated again for
    each use, and nothing of the dense size lives longer than a layer computes.

    Attributes:
        shared: the shorter vector, a weight of shape (count,).
        shape: the dense shape.
        key: the key of the hash.
    """

    shared: WeightSource
    shape: tuple[int, ...]
    key: int

    @property
    def owner(self) -> Any:
        """The owner of the shorter vector."""
        return self.shared.owner

    @property
    def is_trained(self) -> bool:
        """Whether the gradient of the shorter vector is needed."""
        return self.shared.is_trained

    @property
    def positions(self) -> NDArray[np.int64]:
        """All positions of the dense tensor."""
        return np.arange(math.prod(self.shape))

    def entries(self, pool: BufferPool) -> NDArray[Any]:
        """The dense tensor, flat."""
        return self.to_dense(pool, self.row_major)

    def add_gradient(self, gradient: NDArray[Any]) -> None:
        """Add to the gradients of the shared values.

        Args:
            gradient: one number for each entry of the dense tensor, row-major, flat.
        """
        self.add_dense_gradient(gradient)

    def gradient_memory(self) -> None:
        """None: the gradient of the shared values is shorter than that of the entries."""

    def measure_input(self, squares: Callable[[], NDArray[np.float64]]) -> None:
        """Do nothing: the shared values have no inputs of their own."""

    def take_factors(self, _: Callable[[], GradientFactors]) -> bool:
        """Return False: the shared values have no positions whose gradients could be asked for."""
        return False

    @property
    def row_major(self) -> "_AxisOrder":
        """The axes as they are."""
        return _AxisOrder(tuple(range(len(self.shape))))

    @property
    def by_tap(self) -> "_AxisOrder":
        """The axes (height, width, in, out)."""
        return _AxisOrder((2, 3, 1, 0))

    @property
    def by_opposite_tap(self) -> "_AxisOrder":
        """The axes (height, width, out, in), with height and width reversed."""
        return _AxisOrder((2, 3, 0, 1), flipped=(2, 3))

    def to_dense(self, pool: BufferPool, order: "_AxisOrder") -> NDArray[Any]:
        """The dense tensor in this order, flat, of the values hashed anew.

        Args:
            pool: the memory of the result and of intermediate tensors.
            order: one of this weight's three orders.

        Returns:
            (size,), in the dtype of the pool.
        """
        shared = self.shared.to_dense(pool, self.shared.row_major)
        rows, ordered = (pool.take(math.prod(self.shape)) for _ in range(2))
        for block, slots, signs in self._blocks():
            np.multiply(shared[slots], signs.astype(shared.dtype), out=rows[block])
        permuted = order.apply(rows.reshape(self.shape))
        ordered.reshape(permuted.shape)[...] = permuted
        return ordered

    def to_array(self) -> NDArray[np.float64]:
        """The dense tensor in its own shape, in float64."""
        return self.to_dense(BufferPool(np.float64), self.row_major).reshape(self.shape)

    def add_dense_gradient(self, dense: NDArray[Any], order: "_AxisOrder | None" = None) -> None:
        """Add to the gradient of each shared value the signed sum over all entries that are tied to it.

        Args:
            dense: a gradient for every entry, of any shape with as many entries.
            order: the order of its entries, one of this weight's three; row-major if None. Sums are formed in float64.
        """
        rows = (order or self.row_major).undo(dense, self.shape).reshape(-1)
        count = math.prod(self.shared.shape)
        total = np.zeros(count)
        for block, slots, signs in self._blocks():
            total += np.bincount(slots, rows[block] * signs, count)
        self.shared.add_dense_gradient(total)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        size, count = math.prod(self.shape), math.prod(self.shared.shape)
        for first in range(0, size, _BLOCK):
            last = min(first + _BLOCK, size)
            yield slice(first, last), *hash_slots(np.arange(first, last), count, self.key)


@attrs.frozen
class _AxisOrder:
    """A permutation of a tensor's axes, after some of them are reversed."""

    axes: tuple[int, ...]
    flipped: tuple[int, ...] = ()

    def apply(self, tensor: NDArray[Any]) -> NDArray[Any]:
        return np.flip(tensor, self.flipped).transpose(self.axes)

    def undo(self, permuted: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        tensor = permuted.reshape([shape[axis] for axis in self.axes]).transpose(np.argsort(self.axes))
        return np.flip(tensor, self.flipped)
