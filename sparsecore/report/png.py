"""PNG pictures of a few colours, for heat maps in pages."""

import struct
import zlib
from collections.abc import Sequence

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE_COLOURS = 3
"""The kind of picture whose pixels are indices of colours."""


def indexed_png(rows: Sequence[Sequence[int]], palette: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Return a PNG file.

    Args:
        rows: index of the colour of each pixel, from the top; rows of equal, positive length.
        palette: at most 256 colours: red, green, blue and opacity in 0..255.

    Returns:
        The contents of the file.
    """
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, _PALETTE_COLOURS, 0, 0, 0)
    pixels = b"".join(b"\x00" + bytes(row) for row in rows)  # 0: the row is not encoded by differences
    colours = b"".join(bytes(colour[:3]) for colour in palette)
    opacities = bytes(colour[3] for colour in palette)
    data = zlib.compress(pixels, 9)
    chunks = {b"IHDR": header, b"PLTE": colours, b"tRNS": opacities, b"IDAT": data, b"IEND": b""}
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks.items())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
