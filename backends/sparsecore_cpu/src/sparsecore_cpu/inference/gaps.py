"""Ascending positions in about a byte each: the gaps between them, seven bits a byte, the last byte of a gap marked.

At sparsity 0.9 a gap is 10 on average, and a position that would take four bytes or eight takes one.
"""

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError

_BITS = 7
_LAST = np.uint8(0x80)
_MOST_BYTES = 9
"""Of a gap below 2⁶³."""


def to_gaps(positions: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The bytes of strictly ascending positions, at least 0."""
    whole = np.concatenate([np.array([-1]), positions.astype(np.int64)])
    gaps = whole[1:] - whole[:-1] - 1
    digits = np.stack([gaps >> _BITS * place for place in range(_bytes_of(gaps))], axis=1)
    following = np.maximum.accumulate((digits > 0)[:, ::-1], axis=1)[:, ::-1]
    following[:, 0] = True  # a gap of 0 has a byte, too
    low = (digits & 0x7F).astype(np.uint8)
    last = following & ~np.pad(following[:, 1:], ((0, 0), (0, 1)))
    return np.where(last, low | _LAST, low)[following]


def from_gaps(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The positions.

    Raises:
        InputError: the bytes are not those of positions.
    """
    if not content.size:
        return np.zeros(0, np.int64)
    last = content >= _LAST
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not last[-1] or (ends - starts).max() >= _MOST_BYTES:
        raise InputError("the positions are damaged: a gap between them has no end")
    places = np.arange(content.size) - np.repeat(starts, ends - starts + 1)
    digits = (content & 0x7F).astype(np.int64) << _BITS * places
    return np.cumsum(np.add.reduceat(digits, starts) + 1) - 1


def _bytes_of(gaps: NDArray[np.int64]) -> int:
    largest = int(gaps.max(initial=0))
    return max(1, -(-largest.bit_length() // _BITS))
