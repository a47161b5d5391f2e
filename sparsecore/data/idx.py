"""IDX, the format of MNIST's files: a magic number, the sides in big-endian 32-bit integers, and bytes."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.files import opened
from sparsecore.errors import InputError

_MOST = 2**31
"""Bytes of a file's arrays; MNIST's have 47 million."""


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file; one whose name ends in ``.gz`` is decompressed.

    Raises:
        InputError: the file cannot be read, or is not a whole IDX file of bytes with so many dimensions.
    """
    start = 4 + 4 * dimensions
    with opened(path) as file:
        # what a compressed file unpacks to is known only when it is unpacked; its header says how much there may be
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        sides = _sides(path, stream.read(start), dimensions)
        promised = math.prod(sides)
        if promised > _MOST:
            raise InputError(f"{path} promises {_product(sides)} = {promised:,} bytes; at most {_MOST:,} are read")
        content = stream.read(promised + 1)
        if len(content) != promised:
            found = f"{len(content)} bytes or more" if len(content) > promised else f"{len(content)} bytes"
            raise InputError(f"{path} has {found} after its header, which promises {_product(sides)} = {promised}")
        # copied, because an array over ``bytes`` cannot be written to, and torch warns of such
        return np.frombuffer(content, np.uint8).reshape(sides).copy()


def _sides(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes([0, 0, 8, dimensions])
    if header[:4] != magic:
        raise InputError(
            f"{path} is not an IDX file of bytes in {dimensions} dimensions: "
            f"it starts with {header[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}"
        )
    expected = 4 + 4 * dimensions
    if len(header) < expected:
        raise InputError(f"{path} ends within its header, after {len(header)} bytes of {expected}")
    return struct.unpack(f">{dimensions}I", header[4:])


def _product(sides: tuple[int, ...]) -> str:
    return " × ".join(map(str, sides))
