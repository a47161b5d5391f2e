"""Tied weights spelled out: the hash for one position in Python's own numbers, and what a tied tensor is by it."""

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
keys = st.integers(0, 2**62 - 1)


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


def slopes(gradient: FloatArray, count: int, shape: tuple[int, ...], key: int) -> FloatArray:
    """The gradient of the values from that of the dense tensor: of a linear map, its transpose."""
    lay_out = np.stack([laid_out(row, shape, key).reshape(-1) for row in np.eye(count)])
    return np.asarray(lay_out @ gradient)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[FloatArray, FloatArray, tuple[int, ...], int, int, int]:
    batch, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    height, width = (draw(st.integers(max(1, side - 2 * padding), 6)) for side in kernel)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, values = rng.standard_normal((batch, height, width, channels)), rng.standard_normal(draw(st.integers(1, 12)))
    return x, values, (outputs, channels, *kernel), draw(keys), stride, padding
