"""A tensor divided into equal blocks: which block a weight is in, and which weights a block has."""

import itertools
import math
import operator
from collections.abc import Iterator
from functools import cached_property

import attrs

from sparsecore.engine.arrays import Array

Sides = tuple[int, ...]
"""The lengths of the sides of a tensor or a block."""


@attrs.frozen
class BlockGrid:
    """A tensor divided into equal blocks. Positions are counted from the tensor's first one, row-major.

    Attributes:
        shape: the dense shape of the tensor.
        block: the shape of a block; each side divides the tensor's.
    """

    shape: Sides
    block: Sides

    @cached_property
    def counts(self) -> Sides:
        """Blocks along each side."""
        return tuple(side // part for side, part in zip(self.shape, self.block, strict=True))

    @cached_property
    def size(self) -> int:
        """Weights in a block."""
        return math.prod(self.block)

    def units(self, weights: Array) -> Array:
        """Return the block of each weight, one integer a weight.

        Args:
            weights: positions within the tensor, in [0, D_i), in any order, on the backend.

        Returns:
            Row-major indices of blocks in the grid of :attr:`counts`, in the dtype of ``weights``.
        """
        unit = weights * 0
        for side, part, weight_stride, unit_stride in self._sides():
            unit = unit + weights // weight_stride % side // part * unit_stride
        return unit

    def weights(self, units: Array) -> list[Array]:
        """Return the weights of each block.

        Args:
            units: row-major indices of blocks in the grid of :attr:`counts`, on the backend.

        Returns:
            ``size`` vectors with one entry a block, in the dtype of ``units``: the first weight of each block, the
            second of each, and so on, as positions within the tensor.
        """
        first = units * 0
        for side, part, weight_stride, unit_stride in self._sides():
            first = first + units // unit_stride % (side // part) * (part * weight_stride)
        indices = itertools.product(*map(range, self.block))
        return [first + sum(map(operator.mul, index, _strides(self.shape))) for index in indices]

    def _sides(self) -> Iterator[tuple[int, int, int, int]]:
        """Each side's length, the block's part of it, the stride of its weights and the stride of its blocks."""
        return zip(self.shape, self.block, _strides(self.shape), _strides(self.counts), strict=True)


def _strides(shape: Sides) -> Sides:
    return tuple(math.prod(shape[side + 1 :]) for side in range(len(shape)))
