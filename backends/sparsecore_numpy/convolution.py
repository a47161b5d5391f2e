"""Convolution and its gradients as matrix products, a few images at a time on every core.

A weight is dense only for the product; of its dense gradient the active entries are kept.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.buffers import BufferPool
from sparsecore.host.weights import WeightSource
from sparsecore_numpy.workspace import Workspace, divided

Images = NDArray[Any]

_BYTES = 1 << 20
"""Bytes of a matrix of patches that exist at a time in a thread, so that they stay in the core's cache."""


@attrs.frozen
class KernelWindow:
    """How a kernel moves over an image; all lengths are in pixels.

    Attributes:
        height: rows of the kernel.
        width: columns of the kernel.
        stride: the step of the kernel along both sides.
        above: zeros above the image, and as many below.
        left: zeros to the left of the image, and as many to the right.
    """

    height: int
    width: int
    stride: int
    above: int
    left: int

    @property
    def is_pixel(self) -> bool:
        """Whether the patches are the pixels of the image: a kernel of one pixel with stride 1."""
        return attrs.astuple(self) == (1, 1, 1, 0, 0)

    def rotated(self) -> "KernelWindow":
        """The window over the gradient of the outputs that gives that of the inputs.

        Returns:
            A window with the padding that the outputs need; for a stride of 1, and less padding than the kernel is
            long.
        """
        return attrs.evolve(self, above=self.height - 1 - self.above, left=self.width - 1 - self.left)

    def outputs(self, image: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the output.

        Args:
            image: height, width and channels of the input.
        """
        height, width = image[0] + 2 * self.above - self.height, image[1] + 2 * self.left - self.width
        return height // self.stride + 1, width // self.stride + 1


class PatchMatrix(Protocol):
    """Memory for the patches of a few images."""

    def of(self, images: Images) -> NDArray[Any]:
        """The matrix of patches of some images, valid until the next call.

        Args:
            images: (images, height, width, channels), at most as many as there is memory for.

        Returns:
            (images·outputs, kernel height·kernel width·channels), a patch a row.
        """
        ...


class Pixels:
    """The patches of a kernel of one pixel with stride 1: the pixels themselves."""

    def of(self, images: Images) -> NDArray[Any]:
        """The matrix of patches of some images, (patches, height·width·channels), valid until the next call."""
        return pixels(images)


class Patches:
    """Memory for the patches of a few images."""

    def __init__(self, memory: BufferPool, window: KernelWindow, image: tuple[int, ...], images: int) -> None:
        """Take the memory.

        Args:
            memory: the pool that it is taken from.
            window: how the kernel moves.
            image: height, width and channels.
            images: the largest number of images at a time.
        """
        self._window, self._image = window, image
        self._padded, self._inside = _framed(memory, window, image, images)
        self._matrix = memory.take(images, *window.outputs(image), window.height, window.width * image[2])
        # a row of a patch is one run of memory, so that a patch is as many copies as the kernel is high
        first, row, pixel, entry = self._padded.strides
        strides = (first, row * window.stride, pixel * window.stride, row, entry)
        self._view: NDArray[Any] = np.ndarray(self._matrix.shape, memory.dtype, self._padded, 0, strides)

    def of(self, images: Images) -> NDArray[Any]:
        """The matrix of patches of some images, (patches, height·width·channels), valid until the next call."""
        count = len(images)
        np.copyto(self._inside[:count], images)
        np.copyto(self._matrix[:count], self._view[:count])
        return self._matrix[:count].reshape(-1, self._matrix.shape[3] * self._matrix.shape[4])


class PatchSum:
    """Memory for the sum of overlapping patches: the inverse of :class:`Patches`."""

    def __init__(self, memory: BufferPool, window: KernelWindow, image: tuple[int, ...], images: int) -> None:
        """Take the memory.

        Args:
            memory: the pool that it is taken from.
            window: how the kernel moves.
            image: height, width and channels.
            images: the largest number of images at a time.
        """
        self._window, self._channels = window, image[2]
        self._sides = window.outputs(image)
        self._padded, self._inside = _framed(memory, window, image, images)

    def onto(self, images: Images, matrix: NDArray[Any]) -> None:
        """Write to each pixel the sum over all patches that it is in.

        Args:
            images: (images, height, width, channels), written to.
            matrix: the patches, in the shape of :meth:`PatchMatrix.of`.
        """
        count, window, (height, width) = len(images), self._window, self._sides
        step = window.stride
        patches = matrix.reshape(count, height, width, window.height, window.width, self._channels)
        self._padded[:count] = 0
        for row, column in np.ndindex(window.height, window.width):
            target = self._padded[:count, row : row + step * height : step, column : column + step * width : step]
            np.add(target, patches[:, :, :, row, column], out=target)
        np.copyto(images, self._inside[:count])


def patch_matrix(memory: BufferPool, window: KernelWindow, image: tuple[int, ...]) -> PatchMatrix:
    """Memory for the patches of as many images as :func:`blocks` yields at a time.

    Args:
        memory: the pool of the memory.
        window: how the kernel moves.
        image: height, width and channels.
    """
    return Pixels() if window.is_pixel else Patches(memory, window, image, _at_a_time(memory, window, image))


def patch_sum(memory: BufferPool, window: KernelWindow, image: tuple[int, ...]) -> PatchSum:
    """Memory for the sum of patches of as many images as :func:`blocks` yields at a time.

    Args:
        memory: the pool of the memory.
        window: how the kernel moves.
        image: height, width and channels.
    """
    return PatchSum(memory, window, image, _at_a_time(memory, window, image))


def blocks(memory: BufferPool, window: KernelWindow, image: tuple[int, ...], run: slice) -> Iterator[slice]:
    """Divide a slice of images into slices of as many images as have about a mebibyte of patches, at least one.

    Args:
        memory: the pool, whose dtype bounds the number of images.
        window: how the kernel moves.
        image: height, width and channels.
        run: the images.
    """
    count = _at_a_time(memory, window, image)
    return (slice(first, min(first + count, run.stop)) for first in range(run.start, run.stop, count))


def pixels(images: Images) -> NDArray[Any]:
    """Images as a matrix of their pixels.

    Args:
        images: (images, height, width, channels), contiguous.

    Returns:
        A view, (images·height·width, channels): what is written to it is written to the images.
    """
    return images.reshape(-1, images.shape[-1])


def _at_a_time(memory: BufferPool, window: KernelWindow, image: tuple[int, ...]) -> int:
    height, width = window.outputs(image)
    entries = height * width * window.height * window.width * image[2]
    return max(1, _BYTES // (entries * memory.dtype.itemsize))


def _framed(memory: BufferPool, window: KernelWindow, image: tuple[int, ...], images: int) -> tuple[Images, Images]:
    height, width, channels = image
    padded = memory.zeros(images, height + 2 * window.above, width + 2 * window.left, channels)
    return padded, padded[:, window.above : window.above + height, window.left : window.left + width]


_GRAIN = 2.5e7
"""The number of multiply-adds that is worth another thread."""

_NARROW = 32
_SMALL = 10**6
"""OpenBLAS's bound on the multiply-adds of a small product."""


def forward(workspace: Workspace, images: Images, weight: WeightSource, window: KernelWindow) -> Images:
    """The cross-correlation of images with a weight, (batch, height, width, out).

    Args:
        workspace: memory and threads.
        images: (batch, height, width, in).
        weight: (out, in, kernel height, kernel width).
        window: how the kernel moves.
    """
    matrix = weight.to_dense(workspace.memory, weight.by_tap).reshape(-1, weight.shape[0])
    output = workspace.memory.take(len(images), *window.outputs(images.shape[1:]), weight.shape[0])

    def part(run: slice) -> None:
        patches = patch_matrix(workspace.memory, window, images.shape[1:])
        for some in blocks(workspace.memory, window, images.shape[1:], run):
            _multiply(patches.of(images[some]), matrix, pixels(output[some]))

    workspace.workers.each(part, _runs(output, weight))
    return output


def backward(
    workspace: Workspace, images: Images, weight: WeightSource, window: KernelWindow, gradient: Images
) -> Images:
    """Add to the weight's gradient, and return that of the images.

    Args:
        workspace: memory and threads.
        images: (batch, height, width, in).
        weight: (out, in, kernel height, kernel width).
        window: how the kernel moves.
        gradient: that of the outputs, (batch, height, width, out).

    Returns:
        The gradient of the images, in their shape. Where the stride is 1 and the padding is less than the kernel it is
        computed as a convolution with the rotated kernel, else as a sum of overlapping patches.
    """
    is_convolution = window.stride == 1 and window.above < window.height and window.left < window.width
    return (_backward_rotated if is_convolution else _backward_spread)(workspace, images, weight, window, gradient)


def backward_weight(
    workspace: Workspace, images: Images, weight: WeightSource, window: KernelWindow, gradient: Images
) -> None:
    """Add to the weight's gradient only.

    Args:
        workspace: memory and threads.
        images: (batch, height, width, in).
        weight: (out, in, kernel height, kernel width).
        window: how the kernel moves.
        gradient: that of the outputs, (batch, height, width, out).
    """

    def part(run: slice, products: "_Products") -> None:
        patches = patch_matrix(workspace.memory, window, images.shape[1:])
        for some in blocks(workspace.memory, window, images.shape[1:], run):
            products.add(patches.of(images[some]).T, pixels(gradient[some]))

    weight.add_dense_gradient(_summed(workspace, gradient, weight, part), weight.by_tap)


def _backward_rotated(
    workspace: Workspace, images: Images, weight: WeightSource, window: KernelWindow, gradient: Images
) -> Images:
    """The images' gradient as a convolution with the rotated kernel, whose patches give the weight's gradient, too."""
    window = window.rotated()
    matrix = weight.to_dense(workspace.memory, weight.by_opposite_tap).reshape(-1, weight.shape[1])
    result = workspace.memory.take(*images.shape)

    def part(run: slice, products: "_Products") -> None:
        patches = patch_matrix(workspace.memory, window, gradient.shape[1:])
        for some in blocks(workspace.memory, window, gradient.shape[1:], run):
            patch = patches.of(gradient[some])
            _multiply(patch, matrix, pixels(result[some]))
            products.add(patch.T, pixels(images[some]))

    weight.add_dense_gradient(_summed(workspace, gradient, weight, part), weight.by_opposite_tap)
    return result


def _backward_spread(
    workspace: Workspace, images: Images, weight: WeightSource, window: KernelWindow, gradient: Images
) -> Images:
    """The images' gradient as the sum of the gradients of overlapping patches."""
    memory, size = workspace.memory, images.shape[1:]
    matrix = weight.to_dense(memory, weight.by_tap).reshape(-1, weight.shape[0])
    result = memory.take(*images.shape)

    def part(run: slice, products: "_Products") -> None:
        patches, overlap = patch_matrix(memory, window, size), patch_sum(memory, window, size)
        for some in blocks(memory, window, size, run):
            patch, outputs = patches.of(images[some]), pixels(gradient[some])
            products.add(patch.T, outputs)
            overlap.onto(result[some], np.matmul(outputs, matrix.T, out=memory.take(*patch.shape)))

    weight.add_dense_gradient(_summed(workspace, gradient, weight, part), weight.by_tap)
    return result


class _Products:
    """A sum of matrix products in memory of the caller's."""

    def __init__(self, total: NDArray[Any], memory: BufferPool) -> None:
        self._total, self._memory = total, memory
        self._next = total

    def add(self, left: NDArray[Any], right: NDArray[Any]) -> None:
        shape = left.shape[0], right.shape[1]
        np.matmul(left, right, out=self._next.reshape(shape))
        if self._next is self._total:
            self._next = self._memory.take(*self._total.shape)
        else:
            np.add(self._total, self._next, out=self._total)


def _multiply(patches: NDArray[Any], matrix: NDArray[Any], out: NDArray[Any]) -> None:
    """The product of patches and a weight."""
    # OpenBLAS has a kernel for small matrices that copies neither; with few columns, copying takes a third of the time
    step = _NARROW if matrix.shape[1] <= _NARROW and _NARROW * matrix.size <= _SMALL else len(patches)
    whole = len(patches) // step * step
    few = patches[:whole].reshape(-1, step, patches.shape[1])
    np.matmul(few, matrix, out=out[:whole].reshape(-1, step, matrix.shape[1]))
    if whole < len(patches):
        np.matmul(patches[whole:], matrix, out=out[whole:])


def _summed(
    workspace: Workspace, gradient: Images, weight: WeightSource, part: Callable[[slice, _Products], None]
) -> NDArray[Any]:
    """The dense gradient of a weight: each part of the batch sums its products, and the parts are added in order."""
    runs = _runs(gradient, weight)
    totals = workspace.memory.take(len(runs), int(np.prod(weight.shape)))
    workspace.workers.each(
        lambda number: part(runs[number], _Products(totals[number], workspace.memory)), range(len(runs))
    )
    for other in totals[1:]:
        np.add(totals[0], other, out=totals[0])
    return np.asarray(totals[0])


def _runs(output: Images, weight: WeightSource) -> list[slice]:
    return divided(len(output), output[..., 0].size * int(np.prod(weight.shape)), _GRAIN)
