"""Codes for the positions of a tensor's weights in a file: gaps in less than a byte a weight, or a bit a position."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]

_BITS = 3
"""Bits of a digit of a gap."""
_CONTINUED = 2**_BITS
"""What is added to a digit that others follow; a digit takes half a byte."""
_MOST_DIGITS = 21
"""Digits of the largest gap, which is below 2⁶³."""


@attrs.frozen
class PositionCode:
    """A way to write ascending indices as bytes.

    Attributes:
        encode: from row-major indices, int64, ascending, (N,), and the number of positions of the tensor, to bytes.
        decode: from bytes and the number of positions to the indices; raises InputError where no encoding gives these
            bytes, with the reason as the end of a sentence.
    """

    encode: Callable[[Indices, int], Bytes]
    decode: Callable[[Bytes, int], Indices]


def shortest_code(indices: Indices, size: int) -> tuple[str, Bytes]:
    """Return the name of the code that needs the fewest bytes, and these.

    Args:
        indices: row-major, ascending, (N,).
        size: the number of positions of the tensor.
    """
    coded = {name: code.encode(indices, size) for name, code in POSITION_CODES.items()}
    name = min(coded, key=lambda name: len(coded[name]))
    return name, coded[name]


def _encode_gaps(indices: Indices, size: int) -> Bytes:  # noqa: ARG001
    gaps = np.diff(indices, prepend=-1) - 1
    lengths = np.ones(len(gaps), np.int64)
    for groups in range(1, _MOST_DIGITS):
        lengths += gaps >> (_BITS * groups) > 0
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    digits = np.full(total + total % 2, _CONTINUED, np.uint8)
    for index in range(int(lengths.max(initial=0))):
        has = lengths > index
        continued = (lengths[has] > index + 1) * _CONTINUED
        digits[starts[has] + index] = (gaps[has] >> (_BITS * index)) % _CONTINUED + continued
    return (digits[0::2] | digits[1::2] << 4).astype(np.uint8)


def _decode_gaps(coded: Bytes, size: int) -> Indices:
    digits = np.stack([coded & 15, coded >> 4], axis=1).reshape(-1)
    ends = np.flatnonzero(digits < _CONTINUED)
    left = digits[ends[-1] + 1 :] if len(ends) else digits
    if len(left) > 1 or (left != _CONTINUED).any():
        raise InputError("the last of its positions is incomplete")
    if not len(ends):
        if len(coded):
            raise InputError("its bytes of positions hold none")
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_DIGITS or bool(np.any((lengths > 1) & (digits[ends] == 0))):
        raise InputError("a gap between its positions is written in more digits than it needs")
    gaps = np.zeros(len(ends), np.int64)
    for index in range(int(lengths.max())):
        has = lengths > index
        gaps[has] += (digits[starts[has] + index] % _CONTINUED).astype(np.int64) << (_BITS * index)
    # in float64 first, in which no sum can overflow
    if gaps.sum(dtype=np.float64) > size or gaps.sum() + len(gaps) > size:
        raise InputError(f"its positions go beyond the {size:,} of the tensor")
    return np.cumsum(gaps + 1) - 1


def _encode_bits(indices: Indices, size: int) -> Bytes:
    mask = np.zeros(size, np.bool_)
    mask[indices] = True
    return np.packbits(mask, bitorder="little")


def _decode_bits(coded: Bytes, size: int) -> Indices:
    if len(coded) != -(-size // 8):
        raise InputError(f"its {len(coded):,} bytes of bits are not those of {size:,} positions")
    mask = np.unpackbits(coded, bitorder="little")
    if mask[size:].any():
        raise InputError(f"its positions go beyond the {size:,} of the tensor")
    return np.flatnonzero(mask)


POSITION_CODES: Mapping[str, PositionCode] = MappingProxyType(
    {"gaps": PositionCode(_encode_gaps, _decode_gaps), "bits": PositionCode(_encode_bits, _decode_bits)}
)
"""The codes by their names in files.

'gaps': of each position, how many inactive ones lie between it and the one before, in digits of three bits, the lowest
first; all digits of a gap but the last have 8 added, and two digits make a byte, the first in the lower half. An 8
fills up the last byte. 'bits': a bit for each position, 1 where it is active; the lowest bit of a byte is first.
"""
