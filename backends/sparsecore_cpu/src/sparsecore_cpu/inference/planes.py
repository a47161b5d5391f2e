"""The memory of one image's activations: each channel in one run, row behind row, with zeros between.

The zeros behind a row are also those before the next, so that a weight reads at one offset from every pixel.
"""

import weakref
from collections import defaultdict

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.convolution import Window
from sparsecore_cpu.inference.network import Tensor
from sparsecore_cpu.runtime import Floats, aligned_zeros

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


Places = NDArray[np.int32]

_MOST = 2**31 - 1


@attrs.frozen(eq=False)
class Taps:
    """Weights by output channel.

    Attributes:
        pointers: the first of each channel, and how many there are at the end.
        offsets: where each reads.
        values: one for each.
    """

    pointers: Places
    offsets: Places
    values: Floats


@attrs.frozen
class Reach:
    """Of a convolution.

    Attributes:
        window: stride and padding.
        given: the frame of the inputs.
        frame: the one that their phases need.
        outputs: the one of the outputs, of the same pitch.
    """

    window: Window
    given: Frame
    frame: Frame
    outputs: Frame

    @classmethod
    def of(cls, shape: tuple[int, ...], window: Window, given: Frame) -> "Reach":
        """Of a weight of this shape over inputs in this frame."""
        sides = [
            _Side(side, kernel, window)
            for side, kernel in zip((given.height, given.width), (*shape, 1, 1)[2:4], strict=True)
        ]
        rows, columns = sides
        border = max(given.border, *(side.border for side in sides))
        frame = Frame.of(rows.phase, columns.phase, border, least=columns.outputs)
        if window.stride == 1 and border == given.border and given.pitch >= columns.outputs:
            frame = given
        outputs = Frame(rows.outputs, columns.outputs, min(border, frame.pitch - columns.outputs), frame.pitch)
        return cls(window, given, frame, outputs)

    @property
    def is_met(self) -> bool:
        """Whether the inputs can be read as they lie."""
        return self.window.stride == 1 and self.frame == self.given

    def taps(self, weight: Tensor, x: Plane) -> Taps:
        """Of the weight, over phases that lie like ``x``."""
        stride, padding = self.window.stride, self.window.padding
        shape = (*weight.shape, 1, 1)[:4]
        out, into, row, column = (np.asarray(place, np.int64) for place in np.unravel_index(weight.positions, shape))
        down, right = row - padding, column - padding
        channel = (down % stride * stride + right % stride) * shape[1] + into
        offsets = channel * x.frame.room + down // stride * x.frame.pitch + right // stride
        if np.abs(offsets).max(initial=0) > _MOST:
            raise InputError(f"a layer of shape {weight.shape} on so large images does not fit 32-bit places")
        pointers = np.searchsorted(out, np.arange(shape[0] + 1))
        return Taps(pointers.astype(np.int32), offsets.astype(np.int32), np.ascontiguousarray(weight.values))


@attrs.frozen
class _Side:
    """Rows or columns."""

    given: int
    kernel: int
    window: Window

    @property
    def phase(self) -> int:
        """How many there are in a phase."""
        return -(-self.given // self.window.stride)

    @property
    def outputs(self) -> int:
        """How many come out."""
        return self.window.outputs(self.given, self.kernel)

    @property
    def border(self) -> int:
        """How far beyond a phase the weights read."""
        before = -(-self.window.padding // self.window.stride)
        behind = self.outputs + (self.kernel - 1 - self.window.padding) // self.window.stride - self.phase
        return max(0, before, behind)


def diagonal(x: Plane, values: NDArray[np.float64]) -> Taps:
    """One weight a channel, which reads the pixel itself."""
    channels = x.channels
    weights = np.broadcast_to(values, channels).astype(np.float32)
    return Taps(np.arange(channels + 1, dtype=np.int32), np.arange(channels, dtype=np.int32) * x.frame.room, weights)
