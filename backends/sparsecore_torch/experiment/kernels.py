"""Convolution and matrix product with a sparse weight, whose dense form lives only while a layer computes.

Forward makes the dense weight and lets go of it; backward makes it again, and of the dense gradient keeps the entries
that exist. All take the values (N_i,), the positions (N_i,) in the layout, the tensor's first position and its dense
shape.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparsecore_torch.arrays import gather, local_indices, scatter


def conv2d(
    x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], stride: int, padding: int
) -> Tensor:
    """Cross-correlation of images (batch, in, height, width) in their dtype."""
    return functional.conv2d(x, _dense(values, positions, offset, shape, x.dtype), None, stride, padding)


def conv2d_backward(
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    offset: int,
    shape: Sequence[int],
    stride: int,
    padding: int,
    needs_x: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of images (empty where nobody needs it) and of values."""
    weight = _dense(values, positions, offset, shape, x.dtype)
    by_x, by_weight = conv2d_gradients(gradient, x, weight, stride, padding, needs_x)
    return by_x, gather(by_weight, local_indices(positions, offset)).to(values.dtype)


def linear(x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """x·weightᵀ for x of (batch, in), in its dtype."""
    return functional.linear(x, _dense(values, positions, offset, shape, x.dtype))


def linear_backward(
    gradient: Tensor, x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], needs_x: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x (empty where nobody needs it) and of values."""
    by_values = gather(gradient.t() @ x, local_indices(positions, offset)).to(values.dtype)
    by_x = gradient @ _dense(values, positions, offset, shape, x.dtype) if needs_x else x.new_empty(0)
    return by_x, by_values


def dense(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """The dense tensor itself."""
    return _dense(values, positions, offset, shape, values.dtype)


def dense_backward(gradient: Tensor, positions: Tensor, offset: int) -> Tensor:
    """The gradient of values."""
    return gather(gradient, local_indices(positions, offset))


def _dense(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return scatter(values.to(dtype), local_indices(positions, offset), shape)


def conv2d_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, needs_x: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of images (empty where nobody needs it) and of the dense weight."""
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), 1, (needs_x, True, False)
    )
    return by_x if needs_x else x.new_empty(0), by_weight
