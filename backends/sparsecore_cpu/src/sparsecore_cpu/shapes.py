"""Operations that copy activations into another shape, each with its gradient."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.arguments import check_images, pair_of
from sparsecore_cpu.gradients import GradientTerm
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.pixel_windows import padded_axis, repeated_axis, windows_of
from sparsecore_cpu.pooling import sum_of_windows
from sparsecore_cpu.runtime import Buffer, Floats, Form, Runtime
from sparsecore_cpu.window import Padding


def concatenate(ops: CpuOperations, activations: Sequence[Activation]) -> Activation:
    """The channels of several activations behind each other.

    Args:
        ops: records the operation.
        activations: one or more, which differ in their channels only.

    Returns:
        An activation with the channels of all.

    Raises:
        InputError: there are none, or they differ in more than their channels.
    """
    forms = [x.form for x in activations]
    if not forms or any(_without_channels(form) != _without_channels(forms[0]) for form in forms):
        given = ", ".join(str(form.dense) for form in forms) or "none"
        raise InputError(f"tensors that are concatenated may differ in their last axis only; given {given}")
    runtime, counts = ops.runtime, [form.channels for form in forms]
    starts = [0, *accumulate(counts)]
    out = runtime.buffers.take(_with_channels(forms[0], starts[-1]))
    for x, start, count in zip(activations, starts[:-1], counts, strict=True):
        channels = np.arange(count, dtype=np.int32)
        runtime.kernels.gather_channels(x.buffer().handle, channels, out.handle, start, None, runtime.threads)

    def backward(output: Activation) -> None:
        gradient = output.gradient.total(runtime, output.form)
        for x, start, count in zip(activations, starts[:-1], counts, strict=True):
            if x.differentiable:
                channels = np.arange(start, start + count, dtype=np.int32)
                x.gradient.terms.append(ChannelTerm(gradient, channels))

    differentiable = any(x.differentiable for x in activations)
    return ops.recorded(Activation(runtime, out.form, InputNode(out), differentiable), backward)


def select_channels(ops: CpuOperations, x: Activation, channels: Sequence[int]) -> Activation:
    """Some channels, in any order.

    Args:
        ops: records the operation.
        x: images or vectors.
        channels: the number of each channel that is taken, from 0; none occurs twice.

    Returns:
        A copy of these channels.

    Raises:
        InputError: there are none, one is not a channel of ``x``, or one occurs twice.
    """
    chosen = np.array(channels, np.int64)
    if chosen.ndim != 1 or not len(chosen) or chosen.min() < 0 or chosen.max() >= x.form.channels:
        raise InputError(f"channels are numbers from 0 to {x.form.channels - 1}, and at least one; given {channels}")
    if len(np.unique(chosen)) != len(chosen):
        raise InputError(f"a channel can be selected once; given {channels}")
    runtime, numbers = ops.runtime, chosen.astype(np.int32)
    out = runtime.buffers.take(_with_channels(x.form, len(numbers)))
    runtime.kernels.gather_channels(x.buffer().handle, numbers, out.handle, 0, None, runtime.threads)
    inverse = np.full(x.form.channels, -1, np.int32)
    inverse[numbers] = np.arange(len(numbers))

    def backward(output: Activation) -> None:
        if x.differentiable:
            x.gradient.terms.append(ChannelTerm(output.gradient.total(runtime, output.form), inverse))

    return ops.recorded(Activation(runtime, out.form, InputNode(out), x.differentiable), backward)


def slice_channels(ops: CpuOperations, x: Activation, start: int, stop: int) -> Activation:
    """The channels from ``start`` up to, but not with, ``stop``.

    Args:
        ops: records the operation.
        x: images or vectors.
        start: the first channel, from 0.
        stop: the channel after the last one, at most the number of channels.

    Raises:
        InputError: there is none between them, or one is not a channel of ``x``.
    """
    if not 0 <= start < stop <= x.form.channels:
        raise InputError(f"{x.form.channels} channels have no slice from {start} to {stop}")
    return select_channels(ops, x, range(start, stop))


def split_channels(ops: CpuOperations, x: Activation, sizes: Sequence[int]) -> tuple[Activation, ...]:
    """All channels in consecutive slices.

    Args:
        ops: records the operation.
        x: images or vectors.
        sizes: the channels of each slice, at least 1; together all of ``x``.

    Raises:
        InputError: they are not.
    """
    if sum(sizes) != x.form.channels or min(sizes, default=0) < 1:
        raise InputError(f"{x.form.channels} channels cannot be split into slices of {', '.join(map(str, sizes))}")
    return tuple(slice_channels(ops, x, stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True))


def pad2d(ops: CpuOperations, x: Activation, padding: Padding) -> Activation:
    """Images with zeros around them.

    Args:
        ops: records the operation.
        x: images.
        padding: pixels on each side.

    Returns:
        Images whose height and width are larger by the padding.

    Raises:
        InputError: ``x`` are no images.
    """
    check_images(x.form, "padding")
    rows = padded_axis(padding.top, padding.bottom, x.form.height)
    columns = padded_axis(padding.left, padding.right, x.form.width)
    return sum_of_windows(ops, x, windows_of(rows, columns))


def upsample_nearest2d(ops: CpuOperations, x: Activation, scale: int | tuple[int, int]) -> Activation:
    """Images in which each pixel is repeated.

    Args:
        ops: records the operation.
        x: images.
        scale: how many times down and to the right, or one number for both.

    Returns:
        Images of so many times the height and width.

    Raises:
        InputError: ``x`` are no images, or a number is less than 1.
    """
    check_images(x.form, "upsampling")
    down, right = pair_of("scale", scale)
    return sum_of_windows(ops, x, windows_of(repeated_axis(down, x.form.height), repeated_axis(right, x.form.width)))


def to_tokens(ops: CpuOperations, x: Activation) -> Activation:
    """One vector for each pixel.

    Args:
        ops: records the operation.
        x: images, (batch, height, width, channels).

    Returns:
        Vectors, (batch·height·width, channels), image by image and row by row.

    Raises:
        InputError: ``x`` are no images.
    """
    check_images(x.form, "to_tokens")
    form, runtime = x.form, ops.runtime
    out = runtime.buffers.take(Form.of_features(form.entries, form.channels))
    runtime.kernels.unpack(x.buffer().handle, _pixels_of(out, form), runtime.threads)

    def backward(output: Activation) -> None:
        if x.differentiable:
            gradient, images = output.gradient.total(runtime, output.form), runtime.buffers.take(form)
            runtime.kernels.pack(_pixels_of(gradient, form), images.handle, runtime.threads)
            x.gradient.ready.append(images)

    return ops.recorded(Activation(runtime, out.form, InputNode(out), x.differentiable), backward)


def from_tokens(ops: CpuOperations, x: Activation, height: int, width: int) -> Activation:
    """Images from one vector for each pixel; the inverse of :func:`to_tokens`.

    Args:
        ops: records the operation.
        x: vectors, (batch·height·width, channels), image by image and row by row.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        Images, (batch, height, width, channels).

    Raises:
        InputError: ``x`` are no vectors, or not those of whole images.
    """
    form, runtime, pixels = x.form, ops.runtime, height * width
    if not form.features or min(height, width) < 1 or form.images % pixels:
        raise InputError(f"a tensor of {form.dense} is not one vector for each pixel of images of {height}×{width}")
    out = runtime.buffers.take(Form(form.images // pixels, height, width, form.channels))
    runtime.kernels.pack(_pixels_of(x.buffer(), out.form), out.handle, runtime.threads)

    def backward(output: Activation) -> None:
        if x.differentiable:
            gradient, vectors = output.gradient.total(runtime, output.form), runtime.buffers.take(form)
            runtime.kernels.unpack(gradient.handle, _pixels_of(vectors, output.form), runtime.threads)
            x.gradient.ready.append(vectors)

    return ops.recorded(Activation(runtime, out.form, InputNode(out), x.differentiable), backward)


def unflatten(ops: CpuOperations, x: Activation, channels: int, height: int, width: int) -> Activation:
    """Images from one vector each, in the order channel, height, width.

    Args:
        ops: records the operation.
        x: vectors, (batch, channels·height·width).
        channels: of the images.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        Images, (batch, height, width, channels).

    Raises:
        InputError: ``x`` are no vectors, or of another length.
    """
    form, runtime = x.form, ops.runtime
    if not form.features or min(channels, height, width) < 1 or form.channels != channels * height * width:
        raise InputError(f"a tensor of {form.dense} cannot become images of {height}×{width}×{channels}")
    out = runtime.buffers.take(Form(form.images, height, width, channels))
    runtime.kernels.unflatten(x.buffer().handle, out.handle, None, True, runtime.threads)

    def backward(output: Activation) -> None:
        if x.differentiable:
            gradient, vectors = output.gradient.total(runtime, output.form), runtime.buffers.take(form)
            runtime.kernels.flatten(gradient.handle, vectors.handle, True, runtime.threads)
            x.gradient.ready.append(vectors)

    return ops.recorded(Activation(runtime, out.form, InputNode(out), x.differentiable), backward)


@attrs.frozen(eq=False)
class ChannelTerm(GradientTerm):
    """A gradient whose channels are some of another one's, or zero where the number is negative.

    Attributes:
        gradient: the other gradient.
        channels: the number of its channel for each channel, int32, (channels,).
    """

    gradient: Buffer
    channels: NDArray[np.int32]

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the channels, plus ``add``."""
        start = add.handle if add else None
        runtime.kernels.gather_channels(self.gradient.handle, self.channels, out.handle, 0, start, runtime.threads)


def _pixels_of(vectors: Buffer, form: Form) -> Floats:
    """Vectors as the pixels of images of this form, (batch, height, width, channels), in place."""
    by_channel: NDArray[Any] = vectors.array.reshape(form.channels, -1)
    item, room = by_channel.itemsize, by_channel.strides[0]
    row = form.width * item
    strides = (form.height * row, row, item, room)
    return np.lib.stride_tricks.as_strided(by_channel, form.dense, strides)


def _without_channels(form: Form) -> tuple[int, int, int, bool]:
    return form.images, form.height, form.width, form.features


def _with_channels(form: Form, channels: int) -> Form:
    return attrs.evolve(form, channels=channels, border=0 if form.features else 1)
