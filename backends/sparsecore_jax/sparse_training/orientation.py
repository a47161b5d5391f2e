"""How a parameter of JAX lies in the engine's layout, whose tensors have the order (outputs, inputs, kernel) of torch.

Strategies may look at rows: Erdős–Rényi densities, units such as kernels and blocks, groups of N:M. Flax and haiku keep
kernels as (kernel, inputs, outputs), equinox and torch as (outputs, inputs, kernel).
"""

import math
from functools import cached_property

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_jax.sparse_training.parameters import Leaf

_INPUTS_FIRST = frozenset({"kernel", "w"})
"""The names that flax and haiku give to arrays of (kernel, inputs, outputs)."""
_INTO_HEADS = frozenset({"query", "key", "value"})
"""Flax's projections of (features, heads, features of a head)."""
_OUT_OF_HEADS = "out"
"""Flax's projection of (heads, features of a head, features)."""


@attrs.frozen
class Orientation:
    """The order of a tensor's positions in the engine.

    Attributes:
        shape: of the leaf.
        axes: those of the leaf, in the engine's order.
        engine_shape: of the tensor in the layout: some of the reordered axes may be joined.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    engine_shape: tuple[int, ...]

    @cached_property
    def leaf_indices(self) -> NDArray[np.integer] | None:
        """For each position in the engine, the row-major index in the leaf, (D_i,); None where they are equal."""
        if self.axes == tuple(range(len(self.shape))):
            return None
        size = math.prod(self.shape)
        indices: NDArray[np.integer] = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
        turned: NDArray[np.integer] = indices.reshape(self.shape).transpose(self.axes).reshape(-1)
        return turned

    def to_leaf(self, positions: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the row-major indices in the leaf.

        Args:
            positions: row-major indices in the engine's tensor.
        """
        indices = self.leaf_indices
        return positions if indices is None else indices[positions]

    def flat(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return all entries in the engine's order, (D_i,).

        Args:
            array: of the leaf's shape.
        """
        return array.transpose(self.axes).reshape(-1)

    def mask(self, positions: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return the mask of the leaf's shape that is true at some positions.

        Args:
            positions: row-major indices in the engine's tensor.
        """
        return self.leaf_mask(self.to_leaf(positions))

    def leaf_mask(self, indices: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return the mask of the leaf's shape that is true at some indices.

        Args:
            indices: row-major, in the leaf.
        """
        mask = np.zeros(math.prod(self.shape), np.bool_)
        mask[indices] = True
        return mask.reshape(self.shape)

    def dense(self, positions: NDArray[np.integer], entries: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return an array of the leaf's shape with these entries, and zero elsewhere.

        Args:
            positions: row-major indices in the engine's tensor.
            entries: one for each.
        """
        dense = np.zeros(math.prod(self.shape), entries.dtype)
        dense[self.to_leaf(positions)] = entries
        return dense.reshape(self.shape)


def orientation_of(leaf: Leaf) -> Orientation:
    """Return the orientation of a parameter, by its name and the number of its axes.

    Args:
        leaf: the parameter.
    """
    shape, axes = leaf.shape, tuple(range(len(leaf.shape)))
    name = leaf.parts[-1]
    if name not in _INPUTS_FIRST or len(shape) < 2:
        return Orientation(shape, axes, shape)
    around = leaf.parts[-2] if len(leaf.parts) > 1 else ""
    if len(shape) == 3 and around in _INTO_HEADS:
        return Orientation(shape, (1, 2, 0), (shape[1] * shape[2], shape[0]))
    if len(shape) == 3 and around == _OUT_OF_HEADS:
        return Orientation(shape, (2, 0, 1), (shape[2], shape[0] * shape[1]))
    turned = (axes[-1], axes[-2], *axes[:-2])
    return Orientation(shape, turned, tuple(shape[axis] for axis in turned))
