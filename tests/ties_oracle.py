"""The hash of tied weights, spelled out for one position in Python's own numbers."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mixed(word: int) -> int:
    """Wellons' lowbias32."""
    word ^= word >> 16
    word = word * 0x7FEB352D % 2**32
    word ^= word >> 15
    word = word * 0x846CA68B % 2**32
    return word ^ (word >> 16)


def place(position: int, count: int, key: int) -> tuple[int, int]:
    """Which value is at a position, and its sign."""
    word = mixed(mixed(position ^ (key % 2**32)) ^ (key // 2**32))
    return word * count // 2**32, -1 if word % 2 else 1


def laid_out(values: NDArray[Any], shape: tuple[int, ...], key: int) -> NDArray[np.float64]:
    """The tied tensor."""
    places = [place(position, len(values), key) for position in range(math.prod(shape))]
    return np.array([sign * values[slot] for slot, sign in places]).reshape(shape)
