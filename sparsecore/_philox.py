"""Philox4x64-10 (Salmon et al. 2011) at many counters at once.

The words are those of ``numpy.random.Philox(key=key, counter=position)``; NumPy's own object would have to be made
anew for every position.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_MASK = 2**64 - 1
_CHUNK = 1 << 14  # the temporaries of a chunk stay in cache, and memory stays small for any number of positions


def philox_words(positions: NDArray[np.integer], key: int) -> tuple[Words, Words]:
    """The first two words of each position's block: two uint64 vectors as long as ``positions``."""
    first = np.empty(len(positions), np.uint64)
    second = np.empty(len(positions), np.uint64)
    for start in range(0, len(positions), _CHUNK):
        part = slice(start, start + _CHUNK)
        first[part], second[part] = _block(positions[part].astype(np.uint64), key & _MASK, key >> 64)
    return first, second


def _block(positions: Words, key0: int, key1: int) -> tuple[Words, Words]:
    counter0 = positions + np.uint64(1)  # NumPy's generator increments its counter before the first block
    counter1 = counter2 = counter3 = np.zeros_like(counter0)
    for _ in range(10):
        high0, low0 = _multiply(counter0, _MULTIPLIERS[0])
        high1, low1 = _multiply(counter2, _MULTIPLIERS[1])
        counter0, counter2 = high1 ^ counter1 ^ np.uint64(key0), high0 ^ counter3 ^ np.uint64(key1)
        counter1, counter3 = low1, low0
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return counter0, counter1


def _multiply(a: Words, b: int) -> tuple[Words, Words]:
    """The high and the low 64 bits of a·b, out of 32-bit halves."""
    half, low_half = np.uint64(32), np.uint64(0xFFFFFFFF)
    b_high, b_low = np.uint64(b >> 32), np.uint64(b & 0xFFFFFFFF)
    a_high, a_low = a >> half, a & low_half
    cross = a_high * b_low + ((a_low * b_low) >> half)
    middle = (cross & low_half) + a_low * b_high
    return a_high * b_high + (cross >> half) + (middle >> half), a * np.uint64(b)
