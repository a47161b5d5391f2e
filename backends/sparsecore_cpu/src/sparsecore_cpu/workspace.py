"""What every operation works with: the kernels, how many threads, and buffers to use again."""

import os
import weakref
from collections import defaultdict
from typing import Any

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsecore.errors import InputError
from sparsecore_cpu import _kernels

STORED = np.dtype(np.uint16)
"""What they are for NumPy, which has no such type."""


def read(stored: NDArray[Any]) -> NDArray[np.float32]:
    """As floats, which they are exactly."""
    return (stored.astype(np.uint32) << 16).view(np.float32)


def rounded(floats: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest; of two that are as near, the one farther from zero."""
    return (np.asarray(floats, np.float32).view(np.uint32) + 0x8000 >> 16).astype(np.uint16)


KERNELS = "SPARSECORE_CPU_KERNELS"
"""Environment variable: avx512, avx2 or baseline, instead of the best that the processor has."""

_CACHE_LINE = 64

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
Stored = NDArray[Any]


@attrs.frozen
class Form:
    """Of an activation.

    Attributes:
        images: how many.
        height: of an image in pixels; 1 for features.
        width: likewise.
        channels: or features.
        border: zeros on each side; 0 for features.
        features: whether these are vectors, which lie as images of height 1 whose width counts blocks of the batch.
    """

    images: int
    height: int
    width: int
    channels: int
    border: int = 1
    features: bool = False

    @classmethod
    def of_features(cls, images: int, features: int) -> "Form":
        """Vectors."""
        return cls(images, 1, 1, features, border=0, features=True)

    @property
    def entries(self) -> int:
        """Values a channel."""
        return self.images * self.height * self.width

    @property
    def dense(self) -> tuple[int, ...]:
        """As people know it."""
        return (self.images, self.channels) if self.features else (self.images, self.height, self.width, self.channels)

    def constants(self) -> tuple[Floats, Floats]:
        """Ones and zeros by channel: of a function that leaves an activation as it is."""
        return np.ones(self.channels, np.float32), np.zeros(self.channels, np.float32)

    def shape(self, lanes: int) -> tuple[int, int, int, int, int]:
        """Of the buffer."""
        blocks = -(-self.images // lanes)
        if self.features:
            return 1, 1, self.channels, blocks, lanes
        rows, columns = self.height + 2 * self.border, self.width + 2 * self.border
        return blocks, rows, self.channels, columns, lanes

    def strides(self, lanes: int) -> tuple[int, int]:
        """How many floats lie between rows and between channels."""
        _, _, channels, columns, _ = self.shape(lanes)
        return channels * columns * lanes, columns * lanes


@attrs.frozen(eq=False)
class Buffer:
    """The memory of an activation; its border and the lanes beyond the batch are zero.

    Attributes:
        form: of the activation.
        array: floats, or the upper halves of floats (bfloat16) as 16-bit integers.
        handle: of the kernels.
    """

    form: Form
    array: Stored
    handle: _kernels.Activation

    @property
    def inside(self) -> Floats:
        """What is within its border, as floats: (blocks, height, channels, width, lanes)."""
        return read(self._inside) if self._inside.dtype == STORED else self._inside

    def fill(self, inside: Floats) -> None:
        """The other way round."""
        self._inside[:] = rounded(inside) if self._inside.dtype == STORED else inside

    @property
    def _inside(self) -> Stored:
        border = self.form.border
        rows, columns = self.array.shape[1] - border, self.array.shape[3] - border
        return self.array[:, border:rows, :, border:columns]


class Buffers:
    """Hands out buffers; they come back by themselves when nobody holds them any more.

    Kernels write inside the border only, so that a buffer's border is zero for good once it is.
    """

    def __init__(self, lanes: int, images: DTypeLike = np.float32) -> None:
        """Of so many lanes; ``images`` are stored as this type, features as floats."""
        self._lanes, self._images = lanes, images
        self._free: defaultdict[Form, list[tuple[Stored, _kernels.Activation]]] = defaultdict(list)

    def take(self, form: Form) -> Buffer:
        """A buffer of this form, zero on its border and arbitrary inside."""
        free = self._free[form]
        array, handle = free.pop() if free else self._made(form)
        buffer = Buffer(form, array, handle)
        weakref.finalize(buffer, free.append, (array, handle)).atexit = False
        return buffer

    def _made(self, form: Form) -> tuple[Stored, _kernels.Activation]:
        array = aligned_zeros(form.shape(self._lanes), np.float32 if form.features else self._images)
        return array, _kernels.Activation(array, form.border, form.images, form.features)


@attrs.frozen(eq=False)
class Runtime:
    """Kernels, threads and memory.

    Attributes:
        kernels: for one instruction set.
        threads: how many compute.
        buffers: of activations.
    """

    kernels: _kernels.Kernels
    threads: int
    buffers: Buffers

    @classmethod
    def of(cls, threads: int, activations: DTypeLike = np.float32) -> "Runtime":
        """The best kernels that this processor has, or those that the environment variable names.

        Those of images are stored as the type ``activations``: floats or :data:`bfloat16.STORED`.
        """
        name = os.environ.get(KERNELS, "")
        try:
            kernels = _kernels.Kernels(name)
        except ValueError as error:
            raise InputError(
                f"{KERNELS} is {name!r}; this processor has kernels named: {', '.join(kernel_names())}"
            ) from error
        return cls(kernels, threads, Buffers(kernels.lanes, activations))


def kernel_names() -> list[str]:
    """The kernels that this processor can run, the best first."""
    names = []
    for name in ("avx512", "avx2", "baseline"):
        try:
            names.append(_kernels.Kernels(name).name)
        except ValueError:
            continue
    return names


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Stored:
    """Zeros from the start of a cache line on."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory: NDArray[Any] = np.zeros(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)
