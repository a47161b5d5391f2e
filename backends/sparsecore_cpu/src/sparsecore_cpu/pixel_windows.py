"""Windows of pixels: which rows and columns of an image each row and column of an output is made of.

Pooling, nearest upsampling and zero padding are sums or maxima over such windows, and so are their gradients.
"""

from functools import lru_cache

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu import _kernels

Indices = NDArray[np.int32]


@attrs.frozen(eq=False)
class AxisWindows:
    """Windows along the height or the width.

    Attributes:
        first: the first pixel of each window, int32, (outputs,); does not descend, and neither does ``last``.
        last: the pixel after its last one, int32, (outputs,); a window may be empty.
        factors: the number by which a sum over each window is multiplied, float32, (outputs,).
        side: the input's pixels.
    """

    first: Indices
    last: Indices
    factors: NDArray[np.float32]
    side: int

    @property
    def outputs(self) -> int:
        """The number of windows."""
        return len(self.first)

    def inverse(self) -> tuple[Indices, Indices]:
        """The first and last window, as of ``first`` and ``last``, that each pixel of the input is in, (side,) each."""
        pixels = np.arange(self.side)
        first, last = np.searchsorted(self.last, pixels, "right"), np.searchsorted(self.first, pixels, "right")
        return first.astype(np.int32), np.maximum(first, last).astype(np.int32)


@attrs.frozen(eq=False)
class PixelWindows:
    """Windows of rows by columns.

    Attributes:
        rows: the windows along the height.
        columns: the windows along the width.
        forward: the kernels' windows, from inputs to outputs.
        backward: the kernels' windows, from gradients of outputs to those of inputs.
    """

    rows: AxisWindows
    columns: AxisWindows
    forward: _kernels.Windows
    backward: _kernels.Windows

    @classmethod
    def of(cls, rows: AxisWindows, columns: AxisWindows) -> "PixelWindows":
        """The windows of an image.

        Args:
            rows: the windows along the height.
            columns: the windows along the width.
        """
        forward = _kernels.Windows(rows.first, rows.last, columns.first, columns.last)
        return cls(rows, columns, forward, _kernels.Windows(*rows.inverse(), *columns.inverse()))


@attrs.frozen
class PoolingAxis:
    """The settings of pooling along one axis, in pixels.

    Attributes:
        kernel: pixels of a window.
        stride: from one window to the next.
        padding: on each side; at most half the kernel, so that no window is in the padding alone.
        ceil_mode: whether a last window that does not fit into the padded image counts.
    """

    kernel: int
    stride: int
    padding: int = 0
    ceil_mode: bool = False

    def outputs(self, side: int) -> int:
        """The number of windows of ``side`` pixels; zero or negative if there are none."""
        room = side + 2 * self.padding - self.kernel
        outputs = (room + (self.stride - 1 if self.ceil_mode else 0)) // self.stride + 1
        # a window that would begin in the padding behind the image is left out
        return outputs - (self.ceil_mode and (outputs - 1) * self.stride >= side + self.padding)


@lru_cache(maxsize=1024)
def pooled_axis(axis: PoolingAxis, side: int, *, padded: bool = False) -> AxisWindows:
    """The windows of pooling along one axis; their factors make a sum a mean.

    Args:
        axis: the settings.
        side: the input's pixels; at least one window fits.
        padded: whether the mean counts the pixels of the padding, too.
    """
    first = np.arange(axis.outputs(side)) * axis.stride - axis.padding
    last = np.minimum(first + axis.kernel, side + axis.padding)
    inside = np.maximum(first, 0), np.minimum(last, side)
    return _axis(*inside, side, last - first if padded else inside[1] - inside[0])


@lru_cache(maxsize=1024)
def adaptive_axis(outputs: int, side: int) -> AxisWindows:
    """Windows of about equal size that cover all pixels along one axis; their factors make a sum a mean.

    Args:
        outputs: the number of windows.
        side: the input's pixels.
    """
    number = np.arange(outputs)
    first, last = number * side // outputs, -(-(number + 1) * side // outputs)
    return _axis(first, last, side, last - first)


@lru_cache(maxsize=1024)
def repeated_axis(times: int, side: int) -> AxisWindows:
    """Windows of one pixel along one axis, each several times in a row.

    Args:
        times: how many times each pixel occurs.
        side: the input's pixels.
    """
    first = np.repeat(np.arange(side), times)
    return _axis(first, first + 1, side, np.ones(len(first)))


@lru_cache(maxsize=1024)
def padded_axis(before: int, after: int, side: int) -> AxisWindows:
    """Windows of one pixel along one axis, and empty ones before and after them.

    Args:
        before: the number of empty windows before the first pixel.
        after: the number of empty windows after the last pixel.
        side: the input's pixels.
    """
    pixels = np.arange(-before, side + after)
    first, last = np.clip(pixels, 0, side), np.clip(pixels + 1, 0, side)
    return _axis(first, last, side, np.ones(len(first)))


@lru_cache(maxsize=1024)
def windows_of(rows: AxisWindows, columns: AxisWindows) -> PixelWindows:
    """The windows of an image, made once for each pair of axes.

    Args:
        rows: the windows along the height.
        columns: the windows along the width.
    """
    return PixelWindows.of(rows, columns)


def _axis(first: NDArray[np.int64], last: NDArray[np.int64], side: int, divisors: NDArray[np.number]) -> AxisWindows:
    return AxisWindows(
        first.astype(np.int32),
        last.astype(np.int32),
        np.reciprocal(divisors, dtype=np.float64).astype(np.float32),
        side,
    )
