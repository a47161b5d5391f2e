"""The memory of one image's activations: each channel in one run, row behind row, with zeros between.

The zeros behind a row are also those before the next, so that a weight reads at one offset from every pixel.
"""

import weakref
from collections import defaultdict

import attrs
import numpy as np

from sparsecore_cpu.machine import Floats, aligned_zeros

_LINE = 16
"""Floats of a cache line, and of the longest vectors."""


@attrs.frozen
class Frame:
    """How the pixels of a channel lie; all that is counted in floats is whole lines of the cache.

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
        """Where the first pixel of the first channel lies: behind the zeros above it."""
        return _lines(self._margin)

    @property
    def pixels(self) -> int:
        """From the first pixel on, those of all rows with what is between them."""
        return _lines(self.height * self.pitch)

    @property
    def room(self) -> int:
        """From one channel to the next; the zeros behind it are also those before the next."""
        return _lines(self.height * self.pitch + self._margin)

    def size(self, channels: int) -> int:
        """Floats of so many channels; a line behind the last may be read."""
        return channels * self.room + 2 * self.start + _LINE

    @property
    def _margin(self) -> int:
        return self.border * (self.pitch + 1)

    @property
    def inside(self) -> Floats:
        """1 for the pixels, 0 for what is between them, (pixels,)."""
        inside = np.zeros(self.pixels, np.float32)
        inside[: self.height * self.pitch].reshape(self.height, self.pitch)[:, : self.width] = 1
        return inside


@attrs.frozen(eq=False)
class Plane:
    """One activation of one image; all but its pixels is zero."""

    frame: Frame
    channels: int
    memory: Floats

    @property
    def runs(self) -> Floats:
        """All rows of each channel with the zeros between them, (channels, height·pitch), in place."""
        frame = self.frame
        inside = self.memory[frame.start : frame.start + self.channels * frame.room]
        return inside.reshape(self.channels, frame.room)[:, : frame.height * frame.pitch]

    @property
    def pixels(self) -> Floats:
        """(channels, height, width), in place."""
        frame = self.frame
        return self.runs.reshape(self.channels, frame.height, frame.pitch)[:, :, : frame.width]

    @property
    def features(self) -> Floats:
        """The first pixel of each channel, (channels,), in place."""
        return self.runs[:, 0]


class Planes:
    """Hands out planes; their memory comes back by itself when nobody holds them any more."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, Frame], list[Floats]] = defaultdict(list)

    def take(self, channels: int, frame: Frame) -> Plane:
        """A plane whose pixels are arbitrary."""
        free = self._free[channels, frame]
        memory = free.pop() if free else aligned_zeros((frame.size(channels),))
        plane = Plane(frame, channels, memory)
        weakref.finalize(plane, free.append, memory).atexit = False
        return plane


def _lines(floats: int) -> int:
    return -(-floats // _LINE) * _LINE
