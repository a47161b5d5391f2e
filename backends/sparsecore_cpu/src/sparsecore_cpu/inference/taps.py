"""Which pixels the weights of a convolution read, as offsets from an output's place in planes of one pitch.

Where the stride is s, the inputs lie as s² phases, each of them every s-th pixel of every s-th row. Then the offsets
are those of a convolution without a stride, with s² times as many channels.
"""

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.inference.planes import Frame, Plane
from sparsecore_cpu.inference.tensor import Tensor
from sparsecore_cpu.lists import Window
from sparsecore_cpu.machine import Floats

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
