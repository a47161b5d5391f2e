"""What each operation computes, by NumPy on arrays in PyTorch's layout: (batch, channels, height, width) for images.

This is the fallback for operations, or combinations of layouts, that the kernels do not compute. Arguments mean the
same as those of PyTorch's function of this name.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.pixel_windows import PoolingAxis, adaptive_axis

Array = NDArray[Any]


def sigmoid(x: Array) -> Array:
    """1/(1 + exp(−x)), by a form that does not overflow."""
    shares: Array = 0.5 * (np.tanh(0.5 * x) + 1)
    return shares


def clamp(x: Array, least: float | None, most: float | None) -> Array:
    """The entries, cut off at both limits where there are any."""
    return np.clip(x, least, most)


def leaky_relu(x: Array, slope: float) -> Array:
    """The entries, where they are negative times the slope."""
    return np.where(x > 0, x, np.float32(slope) * x)


def elu(x: Array, alpha: float) -> Array:
    """The entries, where they are negative alpha·(exp(x) − 1)."""
    return np.where(x > 0, x, np.float32(alpha) * np.expm1(np.minimum(x, 0)))


def softplus(x: Array, beta: float) -> Array:
    """log(1 + exp(beta·x))/beta."""
    softened: Array = np.logaddexp(np.float32(0), np.float32(beta) * x) / np.float32(beta)
    return softened


def gelu(x: Array, tanh: bool) -> Array:
    """x·Φ(x), or its approximation by tanh."""
    if tanh:
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        computed: Array = 0.5 * x * (1 + np.tanh(inner))
        return computed
    return (0.5 * x * (1 + np.asarray(_erf(x.astype(np.float64) / math.sqrt(2)), np.float64))).astype(x.dtype)


def softmax(x: Array, axis: int) -> Array:
    """exp(x) divided by its sum along an axis; a slice that is −∞ throughout gives NaN, as in PyTorch."""
    with np.errstate(invalid="ignore"):
        exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    computed: Array = exponentials / exponentials.sum(axis=axis, keepdims=True)
    return computed


def attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    causal: bool,
    scale: float | None,
    out: Array | None = None,
) -> Array:
    """softmax(scale·query·keyᵀ + mask)·value.

    Args:
        query: (..., tokens, features).
        key: (..., keys, features).
        value: (..., keys, values).
        mask: bools that are True where a key is read, or numbers that are added; it is broadcast. None: there is none.
        causal: whether a token reads the keys up to its own number only.
        scale: of the products; None: one over the root of the number of features.
        out: the memory of the result, if any; it is written through its transposed.
    """
    factor = np.float32(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = np.matmul(query * factor, key.swapaxes(-1, -2))
    if causal:
        scores += _causal(*scores.shape[-2:])
    if mask is not None:
        scores += np.where(mask, np.float32(0), np.float32(-np.inf)) if mask.dtype == np.bool_ else mask
    with np.errstate(invalid="ignore"):
        scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    target = None if out is None else out.swapaxes(-1, -2)
    transposed = np.matmul(value.swapaxes(-1, -2), scores.swapaxes(-1, -2), out=target)
    transposed /= scores.sum(axis=-1)[..., None, :]
    attended: Array = transposed.swapaxes(-1, -2)
    return attended


@lru_cache(maxsize=64)
def _causal(tokens: int, keys: int) -> Array:
    """What is added to products so that a token reads the keys up to its own number only, float32, (tokens, keys)."""
    return np.where(np.tri(tokens, keys, dtype=np.bool_), np.float32(0), np.float32(-np.inf))


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x·weightᵀ + bias."""
    product_ = np.matmul(x, weight.T)
    computed: Array = product_ if bias is None else product_ + bias
    return computed


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """Cross-correlation with zero padding; see ``torch.nn.functional.conv2d``.

    Args:
        x: (batch, in, height, width).
        weight: (out, in / groups, height, width).
        bias: (out,), or None.
        stride: down and to the right.
        padding: top, bottom, left and right.
        dilation: down and to the right.
        groups: of channels.
    """
    top, bottom, left, right = padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    kernel = weight.shape[2:]
    sides = [
        (size - step * (taps - 1) - 1) // hop + 1
        for size, step, taps, hop in zip(padded.shape[2:], dilation, kernel, stride, strict=True)
    ]
    outputs, inputs = len(weight) // groups, weight.shape[1]
    out = np.zeros((len(x), len(weight), *sides), np.result_type(x, weight))
    for row, column in product(*map(range, kernel)):
        down, across = row * dilation[0], column * dilation[1]
        seen = padded[:, :, down : down + (sides[0] - 1) * stride[0] + 1 : stride[0]]
        seen = seen[:, :, :, across : across + (sides[1] - 1) * stride[1] + 1 : stride[1]]
        for group in range(groups):
            own = slice(group * outputs, (group + 1) * outputs)
            read = seen[:, group * inputs : (group + 1) * inputs]
            out[:, own] += np.einsum("oi,nihw->nohw", weight[own, :, row, column], read, optimize=True)
    return out if bias is None else out + bias[:, None, None]


def batch_norm(
    x: Array, scale: Array | None, shift: Array | None, mean: Array, variance: Array, epsilon: float
) -> Array:
    """Normalize each channel by the running statistics."""
    sides = (slice(None), *(None,) * (x.ndim - 2))
    normalized = (x - mean[sides]) / np.sqrt(variance[sides] + epsilon)
    return _scaled(normalized, None if scale is None else scale[sides], None if shift is None else shift[sides])


def layer_norm(x: Array, scale: Array | None, shift: Array | None, dimensions: int, epsilon: float) -> Array:
    """Normalize over the last dimensions."""
    axes = tuple(range(-dimensions, 0))
    centered = x - x.mean(axis=axes, keepdims=True)
    variance = np.square(centered).mean(axis=axes, keepdims=True)
    return _scaled(centered / np.sqrt(variance + np.float32(epsilon)), scale, shift)


def rms_norm(x: Array, scale: Array | None, dimensions: int, epsilon: float) -> Array:
    """Divide by the root of the mean square over the last dimensions."""
    square = np.square(x).mean(axis=tuple(range(-dimensions, 0)), keepdims=True)
    return _scaled(x / np.sqrt(square + np.float32(epsilon)), scale, None)


def group_norm(x: Array, scale: Array | None, shift: Array | None, groups: int, epsilon: float) -> Array:
    """Normalize each group of channels of each example."""
    grouped = x.reshape(len(x), groups, -1)
    centered = grouped - grouped.mean(axis=2, keepdims=True)
    variance = np.square(centered).mean(axis=2, keepdims=True)
    normalized = (centered / np.sqrt(variance + np.float32(epsilon))).reshape(x.shape)
    sides = (slice(None), *(None,) * (x.ndim - 2))
    return _scaled(normalized, None if scale is None else scale[sides], None if shift is None else shift[sides])


def max_pool2d(
    x: Array, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], ceil: bool
) -> Array:
    """The largest pixel of each window."""
    rows, columns = (
        PoolingAxis(step * (taps - 1) + 1, hop, pad, ceil_mode=ceil).outputs(side)
        for taps, hop, pad, step, side in zip(kernel, stride, padding, dilation, x.shape[2:], strict=True)
    )
    for axis, outputs, taps, hop, pad, step in zip(
        (2, 3), (rows, columns), kernel, stride, padding, dilation, strict=True
    ):
        x = _max_along(x, axis, outputs, taps, hop, pad, step)
    return x


def avg_pool2d(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil: bool,
    include_padding: bool,
    divisor: int | None,
) -> Array:
    """The mean of each window."""
    sums, counts = x, np.ones((1, 1), x.dtype)
    for axis, taps, hop, pad, side in zip((2, 3), kernel, stride, padding, x.shape[2:], strict=True):
        outputs = PoolingAxis(taps, hop, pad, ceil_mode=ceil).outputs(side)
        first = np.arange(outputs) * hop - pad
        inside = np.clip(first, 0, side), np.clip(first + taps, 0, side)
        limits = (first, np.minimum(first + taps, side + pad)) if include_padding else inside
        sums = _sums_along(sums, axis, *inside)
        count = (limits[1] - limits[0]).astype(x.dtype)
        counts = counts * (count[:, None] if axis == 2 else count)
    return sums / (counts if divisor is None else x.dtype.type(divisor))


def adaptive_avg_pool2d(x: Array, size: Sequence[int]) -> Array:
    """The means of windows that cover the images in so many rows and columns."""
    for axis, outputs, side in zip((2, 3), size, x.shape[2:], strict=True):
        windows = adaptive_axis(outputs, side)
        first, last = np.asarray(windows.first), np.asarray(windows.last)
        count = (last - first).astype(x.dtype)
        x = _sums_along(x, axis, first, last) / (count[:, None] if axis == 2 else count)
    return x


def adaptive_max_pool2d(x: Array, size: Sequence[int]) -> Array:
    """The maxima of windows that cover the images in so many rows and columns."""
    for axis, outputs, side in zip((2, 3), size, x.shape[2:], strict=True):
        windows = adaptive_axis(outputs, side)
        parts = [
            x.take(range(first, last), axis).max(axis, keepdims=True)
            for first, last in zip(windows.first, windows.last, strict=True)
        ]
        x = np.concatenate(parts, axis)
    return x


def embedding(indices: Array, table: Array) -> Array:
    """The rows of a table.

    Raises:
        InputError: an index is outside the table.
    """
    if indices.size and not (indices.min() >= 0 and indices.max() < len(table)):
        raise InputError(
            f"indices of an embedding are from 0 to {len(table) - 1}; given {indices.min()} to {indices.max()}"
        )
    return table[indices]


def mean(x: Array, axes: Sequence[int], keep: bool) -> Array:
    """The mean along some axes."""
    return np.asarray(x.mean(axis=tuple(axes), keepdims=keep))


def total(x: Array, axes: Sequence[int], keep: bool) -> Array:
    """The sum along some axes."""
    return np.asarray(x.sum(axis=tuple(axes), keepdims=keep))


def largest(x: Array, axes: Sequence[int], keep: bool) -> Array:
    """The maximum along some axes."""
    return np.asarray(x.max(axis=tuple(axes), keepdims=keep))


def sliced(x: Array, axis: int, start: int, stop: int, step: int) -> Array:
    """Some entries along an axis."""
    return x[(*(slice(None),) * axis, slice(start, stop, step))]


def selected(x: Array, axis: int, index: int) -> Array:
    """One entry along an axis, which is removed."""
    chosen: Array = np.moveaxis(x, axis, 0)[index]
    return chosen


def padded(x: Array, padding: Sequence[Sequence[int]], value: float) -> Array:
    """The tensor with a number around it.

    Args:
        x: the tensor.
        padding: entries before and after, for each axis.
        value: the number.
    """
    return np.pad(x, [tuple(pair) for pair in padding], constant_values=value)


def _scaled(x: Array, scale: Array | None, shift: Array | None) -> Array:
    scaled = x if scale is None else x * scale
    return scaled if shift is None else scaled + shift


def _max_along(x: Array, axis: int, outputs: int, taps: int, hop: int, pad: int, step: int) -> Array:
    reach = (outputs - 1) * hop + step * (taps - 1) + 1
    widths = [(0, 0)] * x.ndim
    widths[axis] = (pad, max(0, reach - pad - x.shape[axis]))
    wide = np.moveaxis(np.pad(x, widths, constant_values=-np.inf), axis, 0)
    best = wide[: (outputs - 1) * hop + 1 : hop]
    for tap in range(1, taps):
        best = np.maximum(best, wide[tap * step : tap * step + (outputs - 1) * hop + 1 : hop])
    return np.moveaxis(best, 0, axis)


def _sums_along(x: Array, axis: int, first: Array, last: Array) -> Array:
    taps = int((last - first).max())
    hop = int(first[1] - first[0]) if len(first) > 1 else 1
    if hop > 0 and np.all(last - first == taps) and np.all(np.diff(first) == hop):
        windows = sliding_window_view(x, taps, axis)
        chosen = np.moveaxis(windows, axis, 0)[first[0] : first[-1] + 1 : hop]
        computed: Array = np.moveaxis(chosen, 0, axis).sum(axis=-1)
        return computed
    parts = [x.take(range(one, other), axis).sum(axis, keepdims=True) for one, other in zip(first, last, strict=True)]
    return np.concatenate(parts, axis)


_erf = np.frompyfunc(math.erf, 1, 1)


VIEWS: "MappingProxyType[str, Callable[..., Array]]" = MappingProxyType(
    {
        "permute": lambda x, order: x.transpose(order),
        "slice": sliced,
        "select": selected,
        "expand": np.broadcast_to,
        "reshape": lambda x, shape: x.reshape(shape),
    }
)
"""Operations that only look at the same entries in another way, where NumPy can."""

DEFINITIONS: "MappingProxyType[str, Callable[..., Array]]" = MappingProxyType(
    {
        **VIEWS,
        "conv2d": conv2d,
        "linear": linear,
        "batch_norm": batch_norm,
        "layer_norm": layer_norm,
        "rms_norm": rms_norm,
        "group_norm": group_norm,
        "relu": lambda x: np.maximum(x, 0),
        "clamp": clamp,
        "leaky_relu": leaky_relu,
        "silu": lambda x: x * sigmoid(x),
        "gelu": gelu,
        "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
        "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
        "sigmoid": sigmoid,
        "tanh": np.tanh,
        "elu": elu,
        "softplus": softplus,
        "mish": lambda x: x * np.tanh(softplus(x, 1.0)),
        "exp": np.exp,
        "sqrt": np.sqrt,
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "reciprocal": np.reciprocal,
        "negative": np.negative,
        "absolute": np.abs,
        "power": lambda x, exponent: x ** np.float32(exponent),
        "add": lambda x, y: x + y,
        "subtract": lambda x, y: x - y,
        "multiply": lambda x, y: x * y,
        "divide": lambda x, y: x / y,
        "add_number": lambda x, number: x + np.float32(number),
        "multiply_number": lambda x, number: x * np.float32(number),
        "masked_fill": lambda x, mask, value: np.where(mask, np.float32(value), x),
        "max_pool2d": max_pool2d,
        "avg_pool2d": avg_pool2d,
        "adaptive_avg_pool2d": adaptive_avg_pool2d,
        "adaptive_max_pool2d": adaptive_max_pool2d,
        "mean": mean,
        "sum": total,
        "max": largest,
        "concatenate": lambda *arrays, axis: np.concatenate(arrays, axis),
        "pad": padded,
        "upsample_nearest2d": lambda x, scale: x.repeat(scale[0], 2).repeat(scale[1], 3),
        "embedding": embedding,
        "softmax": softmax,
        "attention": attention,
        "matmul": np.matmul,
    }
)
"""The function of each operation: operands by position, attributes by name."""
