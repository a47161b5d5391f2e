"""Pooling of images, each with its gradient. All are as PyTorch's functions of the same names."""

from functools import partial

import attrs
import numpy as np

from sparsecore.errors import InputError
from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.arguments import check_images, pair_of
from sparsecore_cpu.gradients import GradientTerm
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.pixel_windows import AxisWindows, PixelWindows, PoolingAxis, adaptive_axis, pooled_axis, windows_of
from sparsecore_cpu.runtime import Buffer, Form, KernelInput, Runtime, Sums

Sides = int | tuple[int, int]
"""One number for height and width, or both."""


def max_pool2d(
    ops: CpuOperations,
    x: Activation,
    kernel: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    *,
    ceil_mode: bool = False,
) -> Activation:
    """The largest pixel of each window; its gradient goes to the first such pixel, row by row.

    Args:
        ops: records the operation.
        x: images.
        kernel: height and width of a window in pixels.
        stride: pixels from one window to the next; None: the kernel's sides.
        padding: pixels around the image that are smaller than all others; at most half the kernel.
        ceil_mode: whether windows that are partly beyond the padded image count.

    Raises:
        InputError: ``x`` are no images, no window fits into them, or a number is out of range.
    """
    rows, columns = (pooled_axis(*of) for of in _axes(x, kernel, stride, padding, ceil_mode=ceil_mode))
    return _max_of_windows(ops, x, windows_of(rows, columns))


def avg_pool2d(
    ops: CpuOperations,
    x: Activation,
    kernel: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Activation:
    """The mean of each window.

    Args:
        ops: records the operation.
        x: images.
        kernel: height and width of a window in pixels.
        stride: pixels from one window to the next; None: the kernel's sides.
        padding: zeros around the image; at most half the kernel.
        ceil_mode: whether windows that are partly beyond the padded image count.
        count_include_pad: whether the zeros of the padding are part of the mean.
        divisor: by what each sum is divided, in place of the number of pixels; not zero.

    Raises:
        InputError: ``x`` are no images, no window fits into them, or a number is out of range.
    """
    axes = _axes(x, kernel, stride, padding, ceil_mode=ceil_mode)
    rows, columns = (pooled_axis(*of, padded=count_include_pad) for of in axes)
    if divisor is None:
        return sum_of_windows(ops, x, windows_of(rows, columns))
    if divisor == 0:
        raise InputError("the divisor of avg_pool2d must not be 0")
    rows, columns = _times(rows, 1 / divisor), _times(columns, 1.0)
    return sum_of_windows(ops, x, PixelWindows.of(rows, columns))


def adaptive_avg_pool2d(ops: CpuOperations, x: Activation, size: int | tuple[int | None, int | None]) -> Activation:
    """The means of windows that cover an image in so many rows and columns.

    Args:
        ops: records the operation.
        x: images.
        size: height and width of the output, or one number for both; None keeps that of the input.

    Raises:
        InputError: ``x`` are no images, or a number is less than 1.
    """
    return sum_of_windows(ops, x, _adaptive(x, size))


def adaptive_max_pool2d(ops: CpuOperations, x: Activation, size: int | tuple[int | None, int | None]) -> Activation:
    """The maxima of windows that cover an image in so many rows and columns; the gradient is that of max_pool2d.

    Args:
        ops: records the operation.
        x: images.
        size: height and width of the output, or one number for both; None keeps that of the input.

    Raises:
        InputError: ``x`` are no images, or a number is less than 1.
    """
    return _max_of_windows(ops, x, _adaptive(x, size))


def global_max_pool(ops: CpuOperations, x: Activation) -> Activation:
    """The largest pixel of each channel, as features; the gradient is that of max_pool2d.

    Args:
        ops: records the operation.
        x: images.

    Returns:
        Features, (batch, channels).

    Raises:
        InputError: ``x`` are no images.
    """
    return ops.flatten(adaptive_max_pool2d(ops, x, 1))


def sum_of_windows(ops: CpuOperations, x: Activation, windows: PixelWindows) -> Activation:
    """The sum of each window times the factors of its row and its column; zero where it is empty.

    Args:
        ops: records the operation.
        x: images.
        windows: the windows, of images of this height and width.
    """
    runtime, rows, columns = ops.runtime, windows.rows, windows.columns
    out = runtime.buffers.take(_pooled_form(x.form, windows))
    factors = rows.factors, columns.factors
    runtime.kernels.window_sum(x.buffer().handle, out.handle, None, windows.forward, *factors, False, runtime.threads)

    def backward(output: Activation) -> None:
        if x.differentiable:
            x.gradient.terms.append(WindowSumTerm(output.gradient.total(runtime, output.form), windows))

    return ops.recorded(Activation(runtime, out.form, InputNode(out), x.differentiable), backward)


@attrs.frozen(eq=False)
class WindowSumTerm(GradientTerm):
    """The gradient of sums over windows: each pixel's is the sum over the windows that it is in."""

    gradient: Buffer
    windows: PixelWindows

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the gradient of the images, plus ``add``."""
        factors = self.windows.rows.factors, self.windows.columns.factors
        start, windows = add.handle if add else None, self.windows.backward
        runtime.kernels.window_sum(self.gradient.handle, out.handle, start, windows, *factors, True, runtime.threads)


@attrs.frozen(eq=False)
class MaxPoolTerm(GradientTerm):
    """The gradient of maxima over windows, which are found again in the images."""

    gradient: Buffer
    x: KernelInput
    windows: PixelWindows

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the gradient of the images, plus ``add``."""
        self._write(runtime, out, add, None, None)

    def write_masked(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask) -> Sums:
        """The same where the mask is, in one pass."""
        sums = np.zeros((out.form.channels, 2))
        self._write(runtime, out, add, mask, sums)
        return sums

    def _write(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask | None, sums: Sums | None) -> None:
        start, windows = add.handle if add else None, self.windows.forward
        read = self.gradient.handle, self.x.handle
        runtime.kernels.max_pool_backward(*read, out.handle, start, windows, mask, sums, runtime.threads)


def _max_of_windows(ops: CpuOperations, x: Activation, windows: PixelWindows) -> Activation:
    # relu and batch norm in front of it are computed as it reads their input
    runtime, source = ops.runtime, x.kernel_input()
    out = runtime.buffers.take(_pooled_form(x.form, windows))
    runtime.kernels.max_pool(source.handle, out.handle, windows.forward, runtime.threads)

    def backward(output: Activation) -> None:
        if x.differentiable:
            x.gradient.terms.append(MaxPoolTerm(output.gradient.total(runtime, output.form), source, windows))

    return ops.recorded(Activation(runtime, out.form, InputNode(out), x.differentiable), backward)


def _pooled_form(x: Form, windows: PixelWindows) -> Form:
    return attrs.evolve(x, height=windows.rows.outputs, width=windows.columns.outputs, border=1)


def _axes(
    x: Activation, kernel: Sides, stride: Sides | None, padding: Sides, *, ceil_mode: bool
) -> tuple[tuple[PoolingAxis, int], tuple[PoolingAxis, int]]:
    """The settings and the input's pixels of both axes."""
    check_images(x.form, "pooling")
    kernels, paddings = pair_of("kernel", kernel), pair_of("padding", padding, least=0)
    strides = kernels if stride is None else pair_of("stride", stride)
    if any(2 * width > side for side, width in zip(kernels, paddings, strict=True)):
        raise InputError(
            f"the padding of a pooling window must be at most half the kernel; given a padding of {paddings} and a "
            f"kernel of {kernels}"
        )
    rows, columns = map(partial(PoolingAxis, ceil_mode=ceil_mode), kernels, strides, paddings)
    if rows.outputs(x.form.height) < 1 or columns.outputs(x.form.width) < 1:
        raise InputError(
            f"a pooling window of {kernels[0]}×{kernels[1]} does not fit into images of {x.form.height}×{x.form.width} "
            f"pixels with a padding of {paddings[0]} and {paddings[1]}"
        )
    return (rows, x.form.height), (columns, x.form.width)


def _adaptive(x: Activation, size: int | tuple[int | None, int | None]) -> PixelWindows:
    check_images(x.form, "pooling")
    height, width = (size, size) if isinstance(size, int) else size
    sides = x.form.height, x.form.width
    wanted = [side if own is None else own for own, side in zip((height, width), sides, strict=True)]
    rows, columns = map(adaptive_axis, pair_of("output size", wanted), sides)
    return windows_of(rows, columns)


def _times(axis: AxisWindows, factor: float) -> AxisWindows:
    """The same windows with one factor for all."""
    return attrs.evolve(axis, factors=np.full(axis.outputs, factor, np.float32))
