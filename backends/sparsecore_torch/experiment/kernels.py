"""Convolution and matrix product with a weight that is sparse or tied, and whose dense form exists only in the kernel.

Forward makes the dense weight and drops it. Backward makes it again, and gathers or sums the dense gradient to the
values. A sparse weight is given by its values (N_i,), their positions (N_i,) in the layout, the tensor's first position
there, and its dense shape. A tied weight is given by its values (N_i,), the key of the hash that says which value each
entry is and with which sign, and its dense shape.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from sparsecore.learning.parameters import hash_slots
from sparsecore_torch.arrays import gather, local_indices, scatter

# sparse weights


def conv2d(
    x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], stride: int, padding: int
) -> Tensor:
    """Compute the cross-correlation of images with a weight.

    Args:
        x: (batch, in, height, width).
        values: the active values, (N_i,).
        positions: their positions in the layout, (N_i,).
        offset: the tensor's first position.
        shape: the dense shape, (out, in, height, width).
        stride: in both directions.
        padding: zeros on all four sides.

    Returns:
        (batch, out, height, width), in the dtype of the images.
    """
    return functional.conv2d(x, _sparse_weight(values, positions, offset, shape, x.dtype), None, stride, padding)


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
    """Compute the gradients of a convolution.

    Args:
        gradient: of the output, (batch, out, height, width).
        x: the images.
        values: the active values, (N_i,).
        positions: their positions in the layout, (N_i,).
        offset: the tensor's first position.
        shape: the dense shape.
        stride: in both directions.
        padding: zeros on all four sides.
        needs_x: whether the gradient of the images is needed.

    Returns:
        The gradients of the images, empty if it is not needed, and of the values.
    """
    weight = _sparse_weight(values, positions, offset, shape, x.dtype)
    x_gradient, weight_gradient = conv2d_gradients(gradient, x, weight, stride, padding, needs_x)
    return x_gradient, gather(weight_gradient, local_indices(positions, offset)).to(values.dtype)


def linear(x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """Compute x·weightᵀ.

    Args:
        x: (batch, in).
        values: the active values, (N_i,).
        positions: their positions in the layout, (N_i,).
        offset: the tensor's first position.
        shape: the dense shape, (out, in).

    Returns:
        (batch, out), in the dtype of x.
    """
    return functional.linear(x, _sparse_weight(values, positions, offset, shape, x.dtype))


def linear_backward(
    gradient: Tensor, x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], needs_x: bool
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a matrix product.

    Args:
        gradient: of the output, (batch, out).
        x: (batch, in).
        values: the active values, (N_i,).
        positions: their positions in the layout, (N_i,).
        offset: the tensor's first position.
        shape: the dense shape.
        needs_x: whether the gradient of x is needed.

    Returns:
        The gradients of x, empty if it is not needed, and of the values.
    """
    values_gradient = gather(gradient.t() @ x, local_indices(positions, offset)).to(values.dtype)
    weight = _sparse_weight(values, positions, offset, shape, x.dtype) if needs_x else None
    return x.new_empty(0) if weight is None else gradient @ weight, values_gradient


def dense(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """Make the dense weight.

    Args:
        values: the active values, (N_i,).
        positions: their positions in the layout, (N_i,).
        offset: the tensor's first position.
        shape: the dense shape.

    Returns:
        The weight, in the dtype of the values.
    """
    return _sparse_weight(values, positions, offset, shape, values.dtype)


def dense_backward(gradient: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:  # noqa: ARG001
    """Compute the gradient of the values.

    Args:
        gradient: of the dense weight.
        values: the active values, (N_i,).
        positions: their positions in the layout, (N_i,).
        offset: the tensor's first position.
        shape: the dense shape.
    """
    return gather(gradient, local_indices(positions, offset))


def _sparse_weight(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return scatter(values.to(dtype), local_indices(positions, offset), shape)


# tied weights


def tied_conv2d(x: Tensor, values: Tensor, key: int, shape: Sequence[int], stride: int, padding: int) -> Tensor:
    """Compute the cross-correlation of images with a weight.

    Args:
        x: (batch, in, height, width).
        values: (N_i,).
        key: of the hash.
        shape: the dense shape, (out, in, height, width).
        stride: in both directions.
        padding: zeros on all four sides.

    Returns:
        (batch, out, height, width), in the dtype of the images.
    """
    return functional.conv2d(
        x, _tied_weight(values, shape, _hashed(values, key, shape), x.dtype), None, stride, padding
    )


def tied_conv2d_backward(
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    key: int,
    shape: Sequence[int],
    stride: int,
    padding: int,
    needs_x: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a convolution.

    Args:
        gradient: of the output, (batch, out, height, width).
        x: the images.
        values: (N_i,).
        key: of the hash.
        shape: the dense shape.
        stride: in both directions.
        padding: zeros on all four sides.
        needs_x: whether the gradient of the images is needed.

    Returns:
        The gradients of the images, empty if it is not needed, and of the values.
    """
    blocks = list(_hashed(values, key, shape))
    weight = _tied_weight(values, shape, blocks, x.dtype)
    x_gradient, weight_gradient = conv2d_gradients(gradient, x, weight, stride, padding, needs_x)
    return x_gradient, _summed(weight_gradient, values, blocks)


def tied_linear(x: Tensor, values: Tensor, key: int, shape: Sequence[int]) -> Tensor:
    """Compute x·weightᵀ.

    Args:
        x: (batch, in).
        values: (N_i,).
        key: of the hash.
        shape: the dense shape, (out, in).

    Returns:
        (batch, out), in the dtype of x.
    """
    return functional.linear(x, _tied_weight(values, shape, _hashed(values, key, shape), x.dtype))


def tied_linear_backward(
    gradient: Tensor, x: Tensor, values: Tensor, key: int, shape: Sequence[int], needs_x: bool
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a matrix product.

    Args:
        gradient: of the output, (batch, out).
        x: (batch, in).
        values: (N_i,).
        key: of the hash.
        shape: the dense shape.
        needs_x: whether the gradient of x is needed.

    Returns:
        The gradients of x, empty if it is not needed, and of the values.
    """
    blocks = list(_hashed(values, key, shape))
    values_gradient = _summed(gradient.t() @ x, values, blocks)
    weight = _tied_weight(values, shape, blocks, x.dtype) if needs_x else None
    return x.new_empty(0) if weight is None else gradient @ weight, values_gradient


def tied_dense(values: Tensor, key: int, shape: Sequence[int]) -> Tensor:
    """Make the dense weight.

    Args:
        values: (N_i,).
        key: of the hash.
        shape: the dense shape.

    Returns:
        The weight, in the dtype of the values.
    """
    return _tied_weight(values, shape, _hashed(values, key, shape), values.dtype)


def tied_dense_backward(gradient: Tensor, values: Tensor, key: int, shape: Sequence[int]) -> Tensor:
    """Compute the gradient of the values.

    Args:
        gradient: of the dense weight.
        values: (N_i,).
        key: of the hash.
        shape: the dense shape.
    """
    return _summed(gradient, values, _hashed(values, key, shape))


HashedBlock: TypeAlias = tuple[slice, Tensor, Tensor]
"""A block of the flat dense weight: which entries, the index of each entry's value, and its sign."""

_BLOCK_SIZES = {"cpu": 1 << 15}
"""Entries of a block by the type of device: on the CPU, what is computed on the way stays in the cache."""

_LARGEST_BLOCK = 1 << 24
"""Entries of a block on other devices, where only memory limits it."""


def _hashed(values: Tensor, key: int, shape: Sequence[int]) -> Iterator[HashedBlock]:
    """Hash all entries of the dense weight, block by block; a backward pass keeps the blocks while it computes."""
    size, step = math.prod(shape), _BLOCK_SIZES.get(values.device.type, _LARGEST_BLOCK)
    for first in range(0, size, step):
        last = min(first + step, size)
        yield slice(first, last), *hash_slots(torch.arange(first, last, device=values.device), len(values), key)


def _tied_weight(values: Tensor, shape: Sequence[int], blocks: Iterable[HashedBlock], dtype: torch.dtype) -> Tensor:
    weight = values.new_empty(tuple(shape), dtype=dtype)
    values = values.detach().to(dtype)
    for block, slots, signs in blocks:
        weight.view(-1)[block] = values.index_select(0, slots) * signs
    return weight


def _summed(weight_gradient: Tensor, values: Tensor, blocks: Iterable[HashedBlock]) -> Tensor:
    """Return the gradient of the values: for each, the sum over all entries that it is in."""
    weight_gradient, total = weight_gradient.reshape(-1), torch.zeros_like(values)
    for block, slots, signs in blocks:
        _add(total, slots, weight_gradient[block].to(values.dtype) * signs)
    return total


def _add(total: Tensor, slots: Tensor, entries: Tensor) -> None:
    # of torch's two ways, on each type of device the one that always adds in the same order
    if total.device.type == "cpu":
        total.index_add_(0, slots, entries)
    else:
        total.index_put_((slots,), entries, accumulate=True)


# both


def conv2d_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, needs_x: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a cross-correlation by the images and by the dense weight.

    Args:
        gradient: of the output, (batch, out, height, width).
        x: the images, (batch, in, height, width).
        weight: (out, in, height, width), in the dtype of the images.
        stride: in both directions.
        padding: zeros on all four sides.
        needs_x: whether the gradient of the images is needed; it is empty otherwise.
    """
    x_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), 1, (needs_x, True, False)
    )
    return x_gradient if needs_x else x.new_empty(0), weight_gradient
