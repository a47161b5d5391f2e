"""Small arguments for the CPU backend's kernels, each in separate memory."""

from typing import Any

import numpy as np
from cpu_examples import MACHINES

from sparsecore_cpu import _kernels
from sparsecore_cpu.runtime import Form, aligned_zeros

MACHINE = MACHINES[0]
KERNELS, LANES = MACHINE.kernels, MACHINE.kernels.lanes

# the row below the last one, and the pixel before the first one of the border
BELOW, BEFORE = 2 * 7 * 2 * LANES, -2 * 7 * LANES - 2 * LANES


def memory(count: int = 3, height: int = 4, width: int = 5, channels: int = 2, border: int = 1) -> Any:
    """Of a buffer of images."""
    return aligned_zeros(Form(count, height, width, channels, border).shape(LANES))


def images(count: int = 3, height: int = 4, width: int = 5, channels: int = 2, border: int = 1) -> Any:
    """A buffer of images."""
    return _kernels.Activation(memory(count, height, width, channels, border), border, count, False)


def features(count: int = 3, channels: int = 2) -> Any:
    """A buffer of features."""
    return _kernels.Activation(aligned_zeros(Form.of_features(count, channels).shape(LANES)), 0, count, True)


def read(**form: int) -> Any:
    """Images as they lie in memory."""
    return _kernels.Input(images(**form))


def places(*numbers: int) -> Any:
    """32-bit integers."""
    return np.array(numbers, np.int32)


def by_channel(channels: int = 2) -> Any:
    """One number a channel."""
    return np.ones(channels, np.float32)


def sums(channels: int = 2) -> Any:
    """Two sums a channel."""
    return np.zeros((channels, 2))


def weights(*offsets: int, channels: int = 2) -> Any:
    """All of them of the first output channel."""
    pointers = places(0, *[len(offsets)] * channels)
    return _kernels.Weights(pointers, places(*offsets), np.ones(len(offsets), np.float32), channels)


def mask(channels: int = 2, **form: int) -> Any:
    """Of images that are all zero."""
    return _kernels.Mask(images(channels=channels, **form), *[by_channel(channels)] * 3)


def convolve(
    x: Any = None, out: Any = None, add: Any = None, listed: Any = None, steps: Any = None, threads: int = 1
) -> None:
    """A convolution with one weight, unless something else is given."""
    listed, steps = listed or weights(0), steps or _kernels.Steps()
    KERNELS.convolve(x or read(), out or images(), add, listed, steps, None, threads)


def backward(x: Any = None, stride: int = 1, steps: Any = None, behind: Any = None, **options: Any) -> None:
    """Both gradients of it."""
    given = {"gradients": np.zeros(1, np.float32), "out": images(), "sums": sums(), "mask": None}
    given |= {"weights": weights(0), "gradient": read(), "add": None, "threads": 1}
    if "transposed" not in options:
        given["transposed"] = [(behind or weights(0), steps or _kernels.Steps())] * stride**2
    KERNELS.backward(x=x or read(), stride=stride, **given | options)


def two_in_one_memory() -> Any:
    """Buffers that share memory, but do not lie alike."""
    both = aligned_zeros((2, 6, 2, 7, LANES)).reshape(-1)
    size, half = len(both) // 2, len(both) // 64 * 16  # a buffer starts at a cache line, of 16 floats
    parts = [both[start : start + size].reshape(1, 6, 2, 7, LANES) for start in (0, half)]
    return [_kernels.Activation(part, 1, 3, False) for part in parts]


def rows(**options: Any) -> Any:
    """A convolution of one image by rows: two channels of 16 pixels from one of 48."""
    given = {
        "kernels": KERNELS.name,
        "x": aligned_zeros((64,)),
        "x_start": 16,
        "out": aligned_zeros((64,)),
        "out_start": 16,
        "channel_stride": 16,
        "add": None,
        "pointers": places(0, 1, 2),
        "offsets": places(-16, 16),
        "values": by_channel(2),
        "bias": by_channel(2),
        "inside": by_channel(16),
        "floor": 0.0,
    }
    return _kernels.RowConvolution(**given | options)
