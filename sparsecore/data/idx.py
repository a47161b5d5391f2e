"""IDX, the format of MNIST's files: a magic number, the sides in big-endian 32-bit integers, and bytes."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.files import readable
from sparsecore.errors import InputError


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file; one whose name ends in ``.gz`` is decompressed.

    Raises:
        InputError: the file cannot be read, or is not a whole IDX file of bytes with so many dimensions.
    """
    with readable(path):
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise InputError(
            f"{path} is not an IDX file of bytes in {dimensions} dimensions: "
            f"it starts with {content[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise InputError(f"{path} ends within its header, after {len(content)} bytes of {start}")
    return _entries(path, content, start, struct.unpack(f">{dimensions}I", content[4:start]))


def _entries(path: Path, content: bytes, start: int, sides: tuple[int, ...]) -> NDArray[np.uint8]:
    promised, given = math.prod(sides), len(content) - start
    if promised != given:
        shape = " × ".join(map(str, sides))
        raise InputError(f"{path} has {given} bytes after its header, which promises {shape} = {promised}")
    with readable(path):
        # copied, because an array over ``bytes`` cannot be written to, and torch warns of such
        return np.frombuffer(content, np.uint8)[start:].reshape(sides).copy()
