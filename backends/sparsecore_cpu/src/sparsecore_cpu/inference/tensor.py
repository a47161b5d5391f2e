"""A parameter of a network that is not trained any more."""

import math

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu.machine import Floats


@attrs.frozen(eq=False)
class Tensor:
    """A parameter: the entries that exist.

    Attributes:
        shape: dense.
        positions: row-major within the tensor, ascending.
        values: one for each position.
    """

    shape: tuple[int, ...]
    positions: NDArray[np.integer]
    values: Floats

    @classmethod
    def whole(cls, array: Floats) -> "Tensor":
        """All entries."""
        return cls(array.shape, np.arange(array.size), array.ravel())

    def vector(self) -> NDArray[np.float64]:
        """In its dense shape, in double precision."""
        dense = np.zeros(self.shape)
        dense.reshape(-1)[self.positions] = self.values
        return dense

    def times(self, factors: NDArray[np.float64]) -> "Tensor":
        """The tensor with each output's weights multiplied by its factor."""
        outputs = self.positions // math.prod(self.shape[1:])
        return attrs.evolve(self, values=(self.values * factors[outputs]).astype(np.float32))
