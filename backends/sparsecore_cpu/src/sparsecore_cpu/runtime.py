"""The resources of operations: the kernels, the threads, and reused buffers of activations."""

import math
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsecore.errors import InputError
from sparsecore_cpu import _kernels
from sparsecore_cpu.pixel_windows import repeated_axis, windows_of

STORED = np.dtype(np.uint16)
"""The NumPy dtype that holds bfloat16, of which NumPy has none."""


def read(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Convert bfloat16 to float32, exactly.

    Args:
        stored: the upper halves of floats, uint16, of any shape.

    Returns:
        A new array of the same shape.
    """
    return (stored.astype(np.uint32) << 16).view(np.float32)


def rounded(floats: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to the nearest bfloat16; ties are rounded away from zero.

    Args:
        floats: of any shape; where the largest bfloat16 is exceeded by half a step, the result is infinite. What is
            not a number stays so.

    Returns:
        The upper halves of floats, uint16, of the same shape.
    """
    single = np.asarray(floats, np.float32)
    bits = single.view(np.uint32)
    # to add half a step to the mantissa of what is not a number could give infinity, or zero
    halves = np.where(np.isnan(single), bits | _QUIET, bits + _HALF_A_STEP) >> 16
    return halves.astype(np.uint16)


_HALF_A_STEP, _QUIET = np.uint32(0x8000), np.uint32(0x400000)

KERNELS = "SPARSECORE_CPU_KERNELS"
"""The environment variable that selects the kernels by their name; by default the best of the processor."""

_CACHE_LINE = 64

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
Stored = NDArray[Any]


@attrs.frozen
class Form:
    """The shape of an activation and its layout in memory.

    Attributes:
        images: the batch size.
        height: pixels of an image; 1 for features.
        width: pixels of an image; 1 for features.
        channels: channels of an image, or features of a vector.
        border: zero pixels on each side of an image; 0 for features.
        features: whether these are vectors, stored as images of height 1 whose width counts blocks of the batch.
    """

    images: int
    height: int
    width: int
    channels: int
    border: int = 1
    features: bool = False

    @classmethod
    def of_features(cls, images: int, features: int) -> "Form":
        """The form of vectors.

        Args:
            images: the batch size.
            features: the length of each vector.
        """
        return cls(images, 1, 1, features, border=0, features=True)

    @property
    def entries(self) -> int:
        """The number of entries in a channel over the batch."""
        return self.images * self.height * self.width

    @property
    def dense(self) -> tuple[int, ...]:
        """The logical shape: (N, H, W, C), or (N, C) for features."""
        return (self.images, self.channels) if self.features else (self.images, self.height, self.width, self.channels)

    def constants(self) -> tuple[Floats, Floats]:
        """Ones and zeros by channel, each (channels,): scale and shift of the identity."""
        return np.ones(self.channels, np.float32), np.zeros(self.channels, np.float32)

    def shape(self, lanes: int) -> tuple[int, int, int, int, int]:
        """The shape of the physical five-dimensional buffer.

        Args:
            lanes: floats of a processor's vector, each of which holds another image of the batch.

        Returns:
            (blocks, height + 2·border, channels, width + 2·border, lanes), or (1, 1, channels, blocks, lanes) for
            features, where the blocks are the batch divided by the lanes, rounded up.
        """
        blocks = -(-self.images // lanes)
        if self.features:
            return 1, 1, self.channels, blocks, lanes
        rows, columns = self.height + 2 * self.border, self.width + 2 * self.border
        return blocks, rows, self.channels, columns, lanes

    def strides(self, lanes: int) -> tuple[int, int]:
        """The distances between rows and between channels in the buffer, in entries.

        Args:
            lanes: floats of a processor's vector.
        """
        _, _, channels, columns, _ = self.shape(lanes)
        return channels * columns * lanes, columns * lanes


@attrs.frozen
class Strides:
    """The distances between neighbours in the buffer of an activation, in entries.

    Attributes:
        row: between rows of an image.
        channel: between channels of a row.
        pixel: between pixels of a channel in a row, which is the number of lanes.
    """

    row: int
    channel: int
    pixel: int

    @classmethod
    def of(cls, form: Form, lanes: int) -> "Strides":
        """The strides of an activation.

        Args:
            form: its form.
            lanes: floats of a processor's vector.
        """
        return cls(*form.strides(lanes), lanes)


@attrs.frozen(eq=False)
class Buffer:
    """The memory of an activation; its border and the lanes beyond the batch are zero.

    Attributes:
        form: the activation's form.
        array: float32, or bfloat16 as uint16, in the shape :meth:`Form.shape`.
        handle: the kernels' handle.
    """

    form: Form
    array: Stored
    handle: _kernels.Activation

    @property
    def inside(self) -> Floats:
        """The data inside the border as float32, (blocks, height, channels, width, lanes)."""
        return read(self._inside) if self._inside.dtype == STORED else self._inside

    @property
    def by_feature(self) -> Floats:
        """The vectors of a batch as the columns of a matrix, (features, batch); a view of the data of features."""
        return self.array.reshape(self.form.channels, -1)[:, : self.form.images]

    def fill(self, inside: Floats) -> None:
        """Write inside the border.

        Args:
            inside: float32, (blocks, height, channels, width, lanes), or (1, 1, channels, blocks, lanes) for features;
                zero in the lanes beyond the batch. It is rounded where the buffer stores bfloat16.
        """
        self._inside[:] = rounded(inside) if self._inside.dtype == STORED else inside

    @property
    def _inside(self) -> Stored:
        border = self.form.border
        rows, columns = self.array.shape[1] - border, self.array.shape[3] - border
        return self.array[:, border:rows, :, border:columns]


_Memory = tuple[Stored, _kernels.Activation]

_MOST_FREE = 2
"""How many times as much as ever was in use at once may be kept for reuse: enough for two batch sizes in turn."""


class Buffers:
    """A pool of buffers; a buffer returns to it when its last reference is gone. Several threads may take from it.

    Kernels write inside the border only, so that a buffer's border is zero for good once it is. Memory is reused for
    exactly the same form; that of the forms that were not asked for longest is given up when much is free.
    """

    def __init__(self, lanes: int, images: DTypeLike = np.float32) -> None:
        """Start with no buffers.

        Args:
            lanes: floats of a processor's vector.
            images: the dtype that images are stored as: float32, or uint16 for bfloat16. Features are always float32.
        """
        self._lanes, self._images = lanes, np.dtype(images)
        self._lock = threading.Lock()
        self._free: OrderedDict[Form, list[_Memory]] = OrderedDict()
        self._free_bytes, self._used_bytes, self._most_used_bytes, self._owed_bytes = 0, 0, 0, 0
        # a buffer's life may end in the middle of `take`, or on another thread: its end only appends
        self._returned: deque[tuple[Form, _Memory]] = deque()

    def take(self, form: Form) -> Buffer:
        """A buffer of this form, zero on its border and arbitrary inside.

        Args:
            form: the form, border included: buffers are reused for exactly the same form only.
        """
        with self._lock:
            array, handle = memory = self._take(form)
        buffer = Buffer(form, array, handle)
        weakref.finalize(buffer, self._returned.append, (form, memory)).atexit = False
        return buffer

    @property
    def stores_bfloat16(self) -> bool:
        """Whether images are stored as bfloat16."""
        return self._images == STORED

    @property
    def nbytes(self) -> int:
        """The bytes of all buffers, in use or not."""
        return self._used_bytes + self._free_bytes

    def release(self, size: int) -> None:
        """Give memory that is free back to the system, the largest buffers first.

        Args:
            size: bytes. As many are given back by this call and later ones together, or all that are free: a buffer
                only when it is no larger than what is owed by then, as it has to be zeroed when it is allocated again.
        """
        if size <= 0:
            return
        with self._lock:
            self._take_back()
            self._owed_bytes += size
            for form in sorted(self._free, key=lambda form: math.prod(form.shape(self._lanes)), reverse=True):
                free = self._free[form]
                while free and free[-1][0].nbytes <= self._owed_bytes:
                    array, _ = free.pop()
                    self._owed_bytes -= array.nbytes
                    self._free_bytes -= array.nbytes
            if not self._free_bytes:
                self._owed_bytes = 0

    def _take(self, form: Form) -> _Memory:
        self._take_back()
        free = self._free.setdefault(form, [])
        self._free.move_to_end(form)
        if free:
            taken = free.pop()
            self._count(taken[0].nbytes)
        else:
            taken = self._allocate(form)
            self._used_bytes += taken[0].nbytes
            self._most_used_bytes = max(self._most_used_bytes, self._used_bytes)
        self._give_up()
        return taken

    def _take_back(self) -> None:
        while self._returned:
            returned, memory = self._returned.popleft()
            self._free.setdefault(returned, []).append(memory)
            self._count(-memory[0].nbytes)

    def _count(self, used: int) -> None:
        self._used_bytes += used
        self._free_bytes -= used
        self._most_used_bytes = max(self._most_used_bytes, self._used_bytes)

    def _give_up(self) -> None:
        while self._free_bytes > _MOST_FREE * self._most_used_bytes:
            oldest = next(iter(self._free))
            self._free_bytes -= sum(array.nbytes for array, _ in self._free.pop(oldest))

    def _allocate(self, form: Form) -> _Memory:
        array = aligned_zeros(form.shape(self._lanes), np.float32 if form.features else self._images)
        return array, _kernels.Activation(array, form.border, form.images, form.features)


@attrs.frozen(eq=False)
class Runtime:
    """Kernels, threads and memory of one network.

    Attributes:
        kernels: the kernels of one instruction set.
        threads: how many threads compute.
        buffers: the pool of activations.
    """

    kernels: _kernels.Kernels
    threads: int
    buffers: Buffers

    @classmethod
    def of(cls, threads: int, activations: DTypeLike = np.float32) -> "Runtime":
        """A runtime with the processor's best kernels, or those that :data:`KERNELS` selects.

        Args:
            threads: how many threads compute.
            activations: the dtype that images are stored as: float32, or uint16 for bfloat16.

        Raises:
            InputError: the environment variable names kernels that this processor does not have.
        """
        name = os.environ.get(KERNELS, "")
        try:
            kernels = _kernels.Kernels(name)
        except ValueError as error:
            raise InputError(
                f"{KERNELS} is {name!r}; this processor has kernels named: {', '.join(kernel_names())}"
            ) from error
        return cls(kernels, threads, Buffers(kernels.lanes, activations))


@attrs.frozen(eq=False)
class KernelInput:
    """The input of a convolution: an activation in memory, or a function of one that the kernels compute as they read.

    Attributes:
        form: the form of the activation.
        handle: the kernels' handle.
        buffer: returns the activation itself, computing it if necessary.
        kept: the buffers that are read, which are kept alive.
    """

    form: Form
    handle: _kernels.Input
    buffer: Callable[[], Buffer]
    kept: tuple[Buffer, ...]

    @classmethod
    def plain(cls, buffer: Buffer) -> "KernelInput":
        """An activation in memory.

        Args:
            buffer: its memory, which the result keeps out of the pool.
        """
        return cls(buffer.form, _kernels.Input(buffer.handle), lambda: buffer, (buffer,))


def bordered(runtime: Runtime, x: KernelInput, border: int) -> KernelInput:
    """The same activation in a buffer whose zero border is wide enough.

    Args:
        runtime: provides the wider buffer.
        x: the activation.
        border: the least width in pixels.

    Returns:
        ``x`` itself where its border suffices and for features; else a copy in memory, for which ``x`` is computed.
    """
    if border <= x.form.border or x.form.features:
        return x
    return KernelInput.plain(copied(runtime, x.buffer(), border))


def copied(runtime: Runtime, images: Buffer, border: int) -> Buffer:
    """The same images in another buffer.

    Args:
        runtime: provides the buffer.
        images: the images.
        border: the width of the copy's zero border in pixels.
    """
    form = images.form
    out = runtime.buffers.take(attrs.evolve(form, border=border))
    rows, columns = repeated_axis(1, form.height), repeated_axis(1, form.width)
    windows, factors = windows_of(rows, columns).forward, (rows.factors, columns.factors)
    runtime.kernels.window_sum(images.handle, out.handle, None, windows, *factors, False, runtime.threads)
    return out


def kernel_names() -> list[str]:
    """The kernels that this processor can run, the best first."""
    names = []
    for name in ("amx", "avx512", "avx2", "baseline"):
        try:
            names.append(_kernels.Kernels(name).name)
        except ValueError:
            continue
    return names


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Stored:
    """An array of zeros that starts at a cache line, as the kernels require.

    Args:
        shape: the array's shape.
        dtype: the array's dtype.

    Returns:
        A row-major array whose address is a multiple of 64 bytes.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory: NDArray[Any] = np.zeros(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)
