"""Convolution and matrix product with a tied weight, whose dense form and whose hash live only while a layer computes.

All take the vector of values (N_i,), the dense shape and the key of the hash.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from sparsecore.learning.parameters import hash_slots
from sparsecore_torch.experiment.kernels import conv2d_gradients

Places: TypeAlias = tuple[slice, Tensor, Tensor]
"""Some entries, the values that they are, and their signs."""

_BLOCK = {"cpu": 1 << 15}
"""Positions that are hashed at a time: on the CPU, what is computed on the way stays in the cache."""

_MOST = 1 << 24
"""Elsewhere, where it is a matter of memory."""


def tied_conv2d(x: Tensor, values: Tensor, shape: Sequence[int], key: int, stride: int, padding: int) -> Tensor:
    """Cross-correlation of images (batch, in, height, width) in their dtype."""
    return functional.conv2d(x, _dense(values, shape, key, x.dtype), None, stride, padding)


def tied_conv2d_backward(
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    shape: Sequence[int],
    key: int,
    stride: int,
    padding: int,
    needs_x: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of images (empty where nobody needs it) and of values."""
    places = list(_places(values, shape, key))
    weight = _laid_out(values, shape, places, x.dtype)
    by_x, by_weight = conv2d_gradients(gradient, x, weight, stride, padding, needs_x)
    return by_x, _summed(by_weight, values, places)


def tied_linear(x: Tensor, values: Tensor, shape: Sequence[int], key: int) -> Tensor:
    """x·weightᵀ for x of (batch, in), in its dtype."""
    return functional.linear(x, _dense(values, shape, key, x.dtype))


def tied_linear_backward(
    gradient: Tensor, x: Tensor, values: Tensor, shape: Sequence[int], key: int, needs_x: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x (empty where nobody needs it) and of values."""
    places = list(_places(values, shape, key))
    by_values = _summed(gradient.t() @ x, values, places)
    by_x = gradient @ _laid_out(values, shape, places, x.dtype) if needs_x else x.new_empty(0)
    return by_x, by_values


def tied_dense(values: Tensor, shape: Sequence[int], key: int) -> Tensor:
    """The dense tensor itself."""
    return _dense(values, shape, key, values.dtype)


def tied_dense_backward(gradient: Tensor, values: Tensor, shape: Sequence[int], key: int) -> Tensor:
    """The gradient of values."""
    return _summed(gradient, values, _places(values, shape, key))


def _dense(values: Tensor, shape: Sequence[int], key: int, dtype: torch.dtype) -> Tensor:
    return _laid_out(values, shape, _places(values, shape, key), dtype)


def _laid_out(values: Tensor, shape: Sequence[int], places: Iterable[Places], dtype: torch.dtype) -> Tensor:
    dense = values.new_empty(tuple(shape), dtype=dtype)
    values = values.detach().to(dtype)
    for block, slots, signs in places:
        dense.view(-1)[block] = values.index_select(0, slots) * signs
    return dense


def _summed(by_weight: Tensor, values: Tensor, places: Iterable[Places]) -> Tensor:
    """The gradient of the values: of each, the sum over all entries that it is."""
    by_weight, total = by_weight.reshape(-1), torch.zeros_like(values)
    for block, slots, signs in places:
        _add(total, slots, by_weight[block].to(values.dtype) * signs)
    return total


def _add(total: Tensor, slots: Tensor, entries: Tensor) -> None:
    # of the two ways of torch, on each kind of device the one that always adds in the same order
    if total.device.type == "cpu":
        total.index_add_(0, slots, entries)
    else:
        total.index_put_((slots,), entries, accumulate=True)


def _places(values: Tensor, shape: Sequence[int], key: int) -> Iterator[Places]:
    """Which value each entry is, and its sign, block by block; a layer's backward pass keeps them while it computes."""
    size, step = math.prod(shape), _BLOCK.get(values.device.type, _MOST)
    for first in range(0, size, step):
        last = min(first + step, size)
        yield slice(first, last), *hash_slots(torch.arange(first, last, device=values.device), len(values), key)
