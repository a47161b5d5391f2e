"""The kernels as operators of torch's own, whose inside is never looked at.

What is compiled around them does not see how many entries a tensor has: that number changes with every reallocation.
"""
# ruff: noqa: ARG001  (what stands in for a kernel takes what the kernel takes, and looks at shapes alone)

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional

from sparsecore_torch.experiment import kernels

conv2d = custom_op("sparsecore::conv2d", mutates_args=())(kernels.conv2d)
conv2d_backward = custom_op("sparsecore::conv2d_backward", mutates_args=())(kernels.conv2d_backward)
linear = custom_op("sparsecore::linear", mutates_args=())(kernels.linear)
linear_backward = custom_op("sparsecore::linear_backward", mutates_args=())(kernels.linear_backward)
dense = custom_op("sparsecore::dense", mutates_args=())(kernels.dense)
dense_backward = custom_op("sparsecore::dense_backward", mutates_args=())(kernels.dense_backward)


@conv2d.register_fake
def _(
    x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], stride: int, padding: int
) -> Tensor:
    return functional.conv2d(x, x.new_empty(tuple(shape)), None, stride, padding)


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
    by_x, _ = kernels.conv2d_gradients(gradient, x, x.new_empty(tuple(shape)), stride, padding, needs_x)
    return by_x, torch.empty_like(values)


@linear.register_fake
def _(x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    return x.new_empty(x.shape[0], shape[0])


@linear_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, values: Tensor, positions: Tensor, offset: int, shape: Sequence[int], needs_x: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else (0,)), torch.empty_like(values)


@dense.register_fake
def _(values: Tensor, positions: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    return values.new_empty(tuple(shape))


@dense_backward.register_fake
def _(gradient: Tensor, positions: Tensor, offset: int) -> Tensor:
    return gradient.new_empty(positions.shape)
