"""Convolution and matrix product with a sparse weight, whose dense form lives only while a layer computes.

Forward makes the dense weight and lets go of it; backward makes it again, and of the dense gradient keeps the entries
that exist. They are opaque operators of torch, so that what is compiled around them never sees how many entries a
tensor has: that number changes with every reallocation.

All take the values (N_i,), the positions (N_i,) in the layout, the tensor's first position and its dense shape.
"""

# ruff: noqa: ARG001  (a fake operator takes what the real one takes)

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional

from sparsecore_torch.materialize import gather, indices, scatter


@custom_op("sparsecore::conv2d", mutates_args=())
def conv2d(
    x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], stride: int, padding: int
) -> Tensor:
    """Cross-correlation of images (batch, in, height, width) in their dtype."""
    return functional.conv2d(x, _dense(values, positions, offset, shape, x.dtype), None, stride, padding)


@conv2d.register_fake
def _(
    x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], stride: int, padding: int
) -> Tensor:
    return functional.conv2d(x, x.new_empty(tuple(shape)), None, stride, padding)


@custom_op("sparsecore::conv2d_backward", mutates_args=())
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
    by_x, by_weight = _conv2d_gradients(gradient, x, weight, stride, padding, needs_x)
    return by_x, gather(by_weight, indices(positions, offset)).to(values.dtype)


@conv2d_backward.register_fake
def _(
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
    by_x, _ = _conv2d_gradients(gradient, x, x.new_empty(tuple(shape)), stride, padding, needs_x)
    return by_x, torch.empty_like(values)


@custom_op("sparsecore::linear", mutates_args=())
def linear(x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """x·weightᵀ for x of (batch, in), in its dtype."""
    return functional.linear(x, _dense(values, positions, offset, shape, x.dtype))


@linear.register_fake
def _(x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    return x.new_empty(x.shape[0], shape[0])


@custom_op("sparsecore::linear_backward", mutates_args=())
def linear_backward(
    gradient: Tensor, x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], needs_x: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x (empty where nobody needs it) and of values."""
    by_values = gather(gradient.t() @ x, indices(positions, offset)).to(values.dtype)
    by_x = gradient @ _dense(values, positions, offset, shape, x.dtype) if needs_x else x.new_empty(0)
    return by_x, by_values


@linear_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], needs_x: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else (0,)), torch.empty_like(values)


@custom_op("sparsecore::dense", mutates_args=())
def dense(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """The dense tensor itself."""
    return _dense(values, positions, offset, shape, values.dtype)


@dense.register_fake
def _(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    return values.new_empty(tuple(shape))


@custom_op("sparsecore::dense_backward", mutates_args=())
def dense_backward(gradient: Tensor, positions: Tensor, offset: int) -> Tensor:
    """The gradient of values."""
    return gather(gradient, indices(positions, offset))


@dense_backward.register_fake
def _(gradient: Tensor, positions: Tensor, offset: int) -> Tensor:
    return gradient.new_empty(positions.shape)


def _dense(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return scatter(values.to(dtype), indices(positions, offset), shape)


def _conv2d_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, needs_x: bool
) -> tuple[Tensor, Tensor]:
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, (stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), 1, (needs_x, True, False)
    )
    return by_x if needs_x else x.new_empty(0), by_weight


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, positions, *ctx.rest = inputs
    ctx.save_for_backward(x, values, positions)


def _conv2d_step(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    needs_x = ctx.needs_input_grad[0]
    by_x, by_values = conv2d_backward(gradient, *ctx.saved_tensors, *ctx.rest, needs_x)
    return by_x if needs_x else None, by_values, None, None, None, None, None


def _linear_step(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    needs_x = ctx.needs_input_grad[0]
    by_x, by_values = linear_backward(gradient, *ctx.saved_tensors, *ctx.rest, needs_x)
    return by_x if needs_x else None, by_values, None, None, None


def _keep_positions(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, positions, ctx.offset, _ = inputs
    ctx.save_for_backward(positions)


def _dense_step(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return dense_backward(gradient, *ctx.saved_tensors, ctx.offset), None, None, None


conv2d.register_autograd(_conv2d_step, setup_context=_keep)
linear.register_autograd(_linear_step, setup_context=_keep)
dense.register_autograd(_dense_step, setup_context=_keep_positions)
