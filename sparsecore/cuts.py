"""One tensor, cut into units: which unit a weight belongs to, and which weights a unit has."""

import itertools
import math
import operator
from collections.abc import Iterator
from functools import cached_property

import attrs

from sparsecore.arrays import Array
from sparsecore.units import Sides


@attrs.frozen
class Cut:
    """A tensor that is cut into equal blocks. All positions are counted from the tensor's first one, row-major.

    Attributes:
        shape: the dense shape.
        block: the sides of a unit; each divides the tensor's.
    """

    shape: Sides
    block: Sides

    @cached_property
    def counts(self) -> Sides:
        """Units along each side."""
        return tuple(side // part for side, part in zip(self.shape, self.block, strict=True))

    @cached_property
    def size(self) -> int:
        """Weights in a unit."""
        return math.prod(self.block)

    def units(self, weights: Array) -> Array:
        """The unit that each weight belongs to."""
        unit = weights * 0
        for side, part, stride, pace in self._sides():
            unit = unit + weights // stride % side // part * pace
        return unit

    def weights(self, units: Array) -> list[Array]:
        """The first weight of each unit, the second of each, and so on: as many vectors as a unit has weights."""
        first = units * 0
        for side, part, stride, pace in self._sides():
            first = first + units // pace % (side // part) * (part * stride)
        inside = itertools.product(*map(range, self.block))
        return [first + sum(map(operator.mul, place, _strides(self.shape))) for place in inside]

    def _sides(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each side: its length, a unit's part of it, and how far apart its weights and its units are counted."""
        return zip(self.shape, self.block, _strides(self.shape), _strides(self.counts), strict=True)


def _strides(shape: Sides) -> Sides:
    return tuple(math.prod(shape[side + 1 :]) for side in range(len(shape)))
