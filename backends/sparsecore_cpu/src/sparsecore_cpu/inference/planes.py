"""The memory of one image's activations: each channel is one run of rows with zeros between them.

The zeros after a row are also those before the next one, so that a weight reads at one offset from every pixel.
"""

import weakref
from collections import defaultdict

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.inference.network import FixedTensor
from sparsecore_cpu.runtime import Floats, aligned_zeros
from sparsecore_cpu.window import Window, WindowAxis

_LINE = 16
"""Floats of a cache line, and of the longest vectors."""


@attrs.frozen
class Frame:
    """The memory layout of a channel; sizes in floats are whole cache lines.

    Attributes:
        height: pixels; 1 for features.
        width: pixels; 1 for features.
        border: zeros around the image on all sides.
        pitch: floats from one row to the next, at least width + border.
    """

    height: int
    width: int
    border: int
    pitch: int

    @classmethod
    def of(cls, height: int, width: int, border: int, least: int = 0) -> "Frame":
        """A frame whose rows are as close together as the border allows.

        Args:
            height: pixels; 1 for features.
            width: pixels; 1 for features.
            border: zeros around the image on all sides, in pixels.
            least: the smallest pitch, in floats.
        """
        return cls(height, width, border, max(width + border, least))

    @property
    def start(self) -> int:
        """The offset of the first pixel of the first channel, after the zeros above it, in floats."""
        return _lines(self._margin)

    @property
    def pixels(self) -> int:
        """The floats from the first pixel to the end of the last row, with the zeros between rows."""
        return _lines(self.height * self.pitch)

    @property
    def room(self) -> int:
        """The distance from one channel to the next, in floats; they share the zeros between them."""
        return _lines(self.height * self.pitch + self._margin)

    def size(self, channels: int) -> int:
        """The floats that so many channels need; one cache line after the last may be read.

        Args:
            channels: the number of channels, at least 1.

        Returns:
            The length of the memory, with the zeros before the first channel and after the last one.
        """
        return channels * self.room + 2 * self.start + _LINE

    @property
    def _margin(self) -> int:
        return self.border * (self.pitch + 1)

    @property
    def inside(self) -> Floats:
        """1 for pixels and 0 for what is between rows, (pixels,)."""
        inside = np.zeros(self.pixels, np.float32)
        inside[: self.height * self.pitch].reshape(self.height, self.pitch)[:, : self.width] = 1
        return inside


@attrs.frozen(eq=False)
class Plane:
    """One activation of one image; everything but its pixels is zero.

    Attributes:
        frame: the memory layout of a channel.
        channels: the number of channels.
        memory: float32, ``(frame.size(channels),)``, which starts at a cache line.
    """

    frame: Frame
    channels: int
    memory: Floats

    @property
    def rooms(self) -> Floats:
        """Each channel with the zeros up to the next one, (channels, room), in place."""
        start, room = self.frame.start, self.frame.room
        return self.memory[start : start + self.channels * room].reshape(self.channels, room)

    @property
    def runs(self) -> Floats:
        """All rows of each channel with the zeros between them, (channels, height·pitch), in place."""
        return self.rooms[:, : self.frame.height * self.frame.pitch]

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
    """A pool of planes; their memory returns to it when the last reference is gone."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, Frame], list[Floats]] = defaultdict(list)

    def take(self, channels: int, frame: Frame) -> Plane:
        """A plane with arbitrary pixels, and zeros elsewhere.

        Args:
            channels: the number of channels.
            frame: the memory layout of a channel; memory is reused for exactly the same layout only.
        """
        free = self._free[channels, frame]
        memory = free.pop() if free else aligned_zeros((frame.size(channels),))
        plane = Plane(frame, channels, memory)
        weakref.finalize(plane, free.append, memory).atexit = False
        return plane


def _lines(floats: int) -> int:
    return -(-floats // _LINE) * _LINE


Indices = NDArray[np.int32]

_MOST = 2**31 - 1


def fitting(offsets: NDArray[np.int64], of: str) -> Indices:
    """The same offsets as 32-bit integers.

    Args:
        offsets: in floats.
        of: the operation that they belong to, for the error message.

    Raises:
        InputError: they do not fit.
    """
    if np.abs(offsets).max(initial=0) > _MOST:
        raise InputError(f"{of} on so large images does not fit 32-bit offsets")
    return offsets.astype(np.int32)


@attrs.frozen(eq=False)
class ChannelTaps:
    """Weights in the order of output channels.

    Attributes:
        pointers: the index of each channel's first weight, and the number of weights, int32, (channels + 1,).
        offsets: the offset at which each weight reads, in floats, int32, (weights,).
        values: float32, (weights,).
    """

    pointers: Indices
    offsets: Indices
    values: Floats


@attrs.frozen
class RowLayout:
    """The frames of a convolution.

    Attributes:
        window: stride, padding, dilation and groups.
        given: the frame of the inputs.
        frame: the frame that the phases of the inputs need.
        outputs: the frame of the outputs, which has the same pitch.
    """

    window: Window
    given: Frame
    frame: Frame
    outputs: Frame

    @classmethod
    def of(cls, shape: tuple[int, ...], window: Window, given: Frame) -> "RowLayout":
        """The frames of a convolution.

        Args:
            shape: the dense shape of the weight, (out, in, height, width) or (out, in).
            window: stride and padding.
            given: the frame that the inputs have.
        """
        height, width = (*shape, 1, 1)[2:4]
        rows, columns = _Side(given.height, height, window.rows), _Side(given.width, width, window.columns)
        border = max(given.border, rows.border, columns.border)
        frame = Frame.of(rows.phase, columns.phase, border, least=columns.outputs)
        if window.stride == (1, 1) and border == given.border and given.pitch >= columns.outputs:
            frame = given
        outputs = Frame(rows.outputs, columns.outputs, min(border, frame.pitch - columns.outputs), frame.pitch)
        return cls(window, given, frame, outputs)

    @property
    def is_met(self) -> bool:
        """Whether the inputs can be read where they are."""
        return self.window.stride == (1, 1) and self.frame == self.given

    def offsets(
        self, row: NDArray[np.int64], column: NDArray[np.int64], channels: int, frame: Frame
    ) -> NDArray[np.int64]:
        """Where taps of the kernel read channel 0, relative to an output's own position, in floats.

        Args:
            row: the row of each tap in the kernel.
            column: its column.
            channels: the channels of each phase.
            frame: that of the phases.
        """
        rows, columns = self.window.rows, self.window.columns
        down, right = row * rows.dilation - rows.before, column * columns.dilation - columns.before
        phase = down % rows.stride * columns.stride + right % columns.stride
        return phase * (channels * frame.room) + down // rows.stride * frame.pitch + right // columns.stride

    def taps(self, weight: FixedTensor, x: Plane) -> ChannelTaps:
        """The weight's taps over phases.

        Args:
            weight: the layer's weight, (out, in / groups, height, width) or (out, in).
            x: the phases of the inputs, or for a stride of 1 the inputs, in the frame that this layout needs.

        Raises:
            InputError: the image is so large that an offset does not fit into 32 bits.
        """
        shape = (*weight.shape, 1, 1)[:4]
        out, into, row, column = (np.asarray(place, np.int64) for place in np.unravel_index(weight.positions, shape))
        groups = self.window.groups
        into = into + out // (shape[0] // groups) * shape[1]
        offsets = self.offsets(row, column, groups * shape[1], x.frame) + into * x.frame.room
        offsets = fitting(offsets, f"a layer of shape {weight.shape}")
        pointers = np.searchsorted(out, np.arange(shape[0] + 1))
        return ChannelTaps(pointers.astype(np.int32), offsets, np.ascontiguousarray(weight.values))


@attrs.frozen
class _Side:
    """One side of a convolution: rows or columns."""

    given: int
    kernel: int
    axis: WindowAxis

    @property
    def phase(self) -> int:
        """The pixels of a phase."""
        return -(-self.given // self.axis.stride)

    @property
    def outputs(self) -> int:
        """The pixels of the output."""
        return self.axis.outputs(self.given, self.kernel)

    @property
    def border(self) -> int:
        """How far beyond a phase the weights read, in pixels."""
        before = -(-self.axis.before // self.axis.stride)
        behind = self.outputs + (self.axis.reach(self.kernel) - 1 - self.axis.before) // self.axis.stride - self.phase
        return max(0, before, behind)


def diagonal(x: Plane, values: NDArray[np.float64]) -> ChannelTaps:
    """One weight for each channel, which reads the pixel itself.

    Args:
        x: the inputs.
        values: the weights, (channels,), or (1,) for all channels; rounded to float32.
    """
    channels = x.channels
    weights = np.broadcast_to(values, channels).astype(np.float32)
    return ChannelTaps(
        np.arange(channels + 1, dtype=np.int32), np.arange(channels, dtype=np.int32) * x.frame.room, weights
    )
