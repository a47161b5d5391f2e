"""The memory of one image's activations: each channel in one run, row behind row, with zeros between.

The zeros behind a row are also those before the next, so that a weight reads at one offset from every pixel.
"""

import weakref
from collections import defaultdict

import attrs

from sparsecore_cpu.machine import Floats, aligned_zeros

_LINE = 16
"""Floats of a cache line: where a channel's first pixel lies, and how far apart channels are, are whole lines."""


@attrs.frozen
class Frame:
    """How the pixels of a channel lie.

    Attributes:
        height: in pixels; 1 for features.
        width: likewise.
        border: how many zeros are around the image on all sides.
        pitch: floats from one row to the next, at least width + border.
    """

    height: int
    width: int
    border: int
    pitch: int

    @classmethod
    def of(cls, height: int, width: int, border: int, least: int = 0) -> "Frame":
        """With rows as near to each other as the border allows, but at least so far apart."""
        return cls(height, width, border, max(width + border, least))

    @property
    def start(self) -> int:
        """Where the first pixel lies."""
        return _lines(self._margin)

    @property
    def pixels(self) -> int:
        """From the first pixel on, those of all rows with what is between them, in whole lines."""
        return _lines(self.height * self.pitch)

    @property
    def room(self) -> int:
        """Floats a channel; as many may be read behind the last row as the border and a line have."""
        return self.start + _lines(self.height * self.pitch + self._margin) + _LINE

    @property
    def inside(self) -> Floats:
        """1 for the pixels, 0 for what is between them, (pixels,)."""
        inside = aligned_zeros((self.pixels,))
        inside[: self.height * self.pitch].reshape(self.height, self.pitch)[:, : self.width] = 1
        return inside

    @property
    def _margin(self) -> int:
        return self.border * (self.pitch + 1)


@attrs.frozen(eq=False)
class Plane:
    """One activation of one image; all but its pixels is zero."""

    frame: Frame
    array: Floats

    @property
    def channels(self) -> int:
        """Or features."""
        return len(self.array)

    @property
    def pixels(self) -> Floats:
        """(channels, height, width), in place."""
        frame = self.frame
        runs = self.array[:, frame.start : frame.start + frame.height * frame.pitch]
        return runs.reshape(self.channels, frame.height, frame.pitch)[:, :, : frame.width]

    @property
    def features(self) -> Floats:
        """The first pixel of each channel, (channels,), in place."""
        return self.array[:, self.frame.start]


class Planes:
    """Hands out planes; their memory comes back by itself when nobody holds them any more."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, Frame], list[Floats]] = defaultdict(list)

    def take(self, channels: int, frame: Frame) -> Plane:
        """A plane whose pixels are arbitrary."""
        free = self._free[channels, frame]
        array = free.pop() if free else aligned_zeros((channels, frame.room))
        plane = Plane(frame, array)
        weakref.finalize(plane, free.append, array).atexit = False
        return plane


def _lines(floats: int) -> int:
    return -(-floats // _LINE) * _LINE
