"""Images as matrices of patches: a convolution is then one matrix product.

Images are (batch, height, width, channels). A patch is the part of an image under the kernel, in the order height,
width, channel; a matrix of patches has one row for each pixel of the output.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_numpy.memory import Memory

Images = NDArray[Any]

_BYTES = 1 << 20
"""As much of a matrix of patches as exists at a time in a thread, so that it stays in the core's cache."""


@attrs.frozen
class Window:
    """How a kernel moves over an image: its sides, the step, and the zeros above and left of the image."""

    height: int
    width: int
    stride: int
    above: int
    left: int

    @property
    def is_pixel(self) -> bool:
        """Whether the patches are the pixels of the image."""
        return attrs.astuple(self) == (1, 1, 1, 0, 0)

    def turned(self) -> "Window":
        """The window over the output's gradient that gives the input's, for a stride of 1."""
        return attrs.evolve(self, above=self.height - 1 - self.above, left=self.width - 1 - self.left)

    def outputs(self, image: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the output, for an image of (height, width, channels)."""
        height, width = image[0] + 2 * self.above - self.height, image[1] + 2 * self.left - self.width
        if min(height, width) < 0:
            raise InputError(
                f"a kernel of {self.height}×{self.width} does not fit into images of {image[0]}×{image[1]} pixels "
                f"with a padding of {self.above}"
            )
        return height // self.stride + 1, width // self.stride + 1


class Layer(Protocol):
    """Room for the patches of a few images."""

    def of(self, images: Images) -> NDArray[Any]:
        """The matrix of their patches, valid until the next call."""
        ...


class Pixels:
    """The patches of a kernel of one pixel that visits every pixel: the image itself."""

    def of(self, images: Images) -> NDArray[Any]:
        """See :class:`Layer`."""
        return pixels(images)


class Patches:
    """Room for the patches of a few images, and the way back."""

    def __init__(self, memory: Memory, window: Window, image: tuple[int, ...], images: int) -> None:
        self._window, self._image = window, image
        self._padded, self._inside = _framed(memory, window, image, images)
        self._matrix = memory.take(images, *window.outputs(image), window.height, window.width * image[2])
        # a row of a patch is one run of memory, so that a patch is as many copies as the kernel is high
        first, row, pixel, entry = self._padded.strides
        strides = (first, row * window.stride, pixel * window.stride, row, entry)
        self._view: NDArray[Any] = np.ndarray(self._matrix.shape, memory.dtype, self._padded, 0, strides)

    def of(self, images: Images) -> NDArray[Any]:
        """See :class:`Layer`."""
        count = len(images)
        np.copyto(self._inside[:count], images)
        np.copyto(self._matrix[:count], self._view[:count])
        return self._matrix[:count].reshape(-1, self._matrix.shape[3] * self._matrix.shape[4])


class Spread:
    """Room for the sum of overlapping patches: the opposite of :class:`Patches`."""

    def __init__(self, memory: Memory, window: Window, image: tuple[int, ...], images: int) -> None:
        self._window, self._channels = window, image[2]
        self._sides = window.outputs(image)
        self._padded, self._inside = _framed(memory, window, image, images)

    def onto(self, images: Images, matrix: NDArray[Any]) -> None:
        """Write to ``images`` what each pixel gets from all the patches that it is in."""
        count, window, (height, width) = len(images), self._window, self._sides
        step = window.stride
        patches = matrix.reshape(count, height, width, window.height, window.width, self._channels)
        self._padded[:count] = 0
        for row, column in np.ndindex(window.height, window.width):
            target = self._padded[:count, row : row + step * height : step, column : column + step * width : step]
            np.add(target, patches[:, :, :, row, column], out=target)
        np.copyto(images, self._inside[:count])


def layer(memory: Memory, window: Window, image: tuple[int, ...]) -> Layer:
    """Room for the patches of as many images as :func:`blocks` takes at a time."""
    return Pixels() if window.is_pixel else Patches(memory, window, image, _at_a_time(memory, window, image))


def spread(memory: Memory, window: Window, image: tuple[int, ...]) -> Spread:
    """The way back for as many images as :func:`blocks` takes at a time."""
    return Spread(memory, window, image, _at_a_time(memory, window, image))


def blocks(memory: Memory, window: Window, image: tuple[int, ...], run: slice) -> Iterator[slice]:
    """A run of images, a few at a time."""
    count = _at_a_time(memory, window, image)
    return (slice(first, min(first + count, run.stop)) for first in range(run.start, run.stop, count))


def pixels(images: Images) -> NDArray[Any]:
    """Images as a matrix with one row a pixel."""
    return images.reshape(-1, images.shape[-1])


def _at_a_time(memory: Memory, window: Window, image: tuple[int, ...]) -> int:
    height, width = window.outputs(image)
    entries = height * width * window.height * window.width * image[2]
    return max(1, _BYTES // (entries * memory.dtype.itemsize))


def _framed(memory: Memory, window: Window, image: tuple[int, ...], images: int) -> tuple[Images, Images]:
    height, width, channels = image
    padded = memory.zeros(images, height + 2 * window.above, width + 2 * window.left, channels)
    return padded, padded[:, window.above : window.above + height, window.left : window.left + width]
