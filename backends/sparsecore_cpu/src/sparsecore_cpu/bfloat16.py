"""The upper halves of floats: sign, exponent and seven digits of two, as 16-bit integers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

STORED = np.dtype(np.uint16)
"""What they are for NumPy, which has no such type."""


def read(stored: NDArray[Any]) -> NDArray[np.float32]:
    """As floats, which they are exactly."""
    return (stored.astype(np.uint32) << 16).view(np.float32)


def rounded(floats: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest; of two that are as near, the one farther from zero."""
    return (np.asarray(floats, np.float32).view(np.uint32) + 0x8000 >> 16).astype(np.uint16)
