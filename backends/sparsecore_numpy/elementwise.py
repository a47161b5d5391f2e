"""Operations entry by entry, on all cores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore_numpy.machine import Machine


def rectified(machine: Machine, x: NDArray[Any]) -> NDArray[Any]:
    """max(x, 0)."""
    output = machine.memory.take(*x.shape)
    machine.by_blocks(lambda block: np.maximum(x[block.rows], 0, out=output[block.rows]), x)
    return output


def where_positive(machine: Machine, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """``y`` where ``x`` is positive, else 0."""
    output = machine.memory.take(*x.shape)
    # a product with a mask takes a tenth of the time of `where`
    machine.by_blocks(lambda block: np.multiply(y[block.rows], x[block.rows] > 0, out=output[block.rows]), x)
    return output


def added(machine: Machine, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """The sum of two arrays of equal shapes."""
    output = machine.memory.take(*x.shape)
    machine.by_blocks(lambda block: np.add(x[block.rows], y[block.rows], out=output[block.rows]), x)
    return output
