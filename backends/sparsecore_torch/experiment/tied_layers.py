"""Layers with a tied weight, differentiable: autograd functions, or operators for what is compiled."""
# ruff: noqa: ARG001  (what stands in for a kernel takes what the kernel takes, and looks at shapes alone)

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op
from torch.nn import functional

from sparsecore_torch.experiment import kernels, tied_kernels
from sparsecore_torch.experiment.layers import through_x_and_values

Function = Callable[..., Any]


@attrs.frozen(eq=False)
class TiedLayers:
    """Each takes what the kernel of its name takes."""

    conv2d: Function
    linear: Function
    dense: Function


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, *ctx.rest = inputs
    ctx.save_for_backward(x, values)


def _keep_values(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, *ctx.rest = inputs
    ctx.save_for_backward(values)


def _through_values(backward: Function) -> Function:
    return lambda ctx, gradient: (backward(gradient, *ctx.saved_tensors, *ctx.rest), None, None)


class _Conv2d(torch.autograd.Function):
    forward = staticmethod(tied_kernels.tied_conv2d)
    setup_context = staticmethod(_keep)
    backward = staticmethod(once_differentiable(through_x_and_values(tied_kernels.tied_conv2d_backward, 4)))  # type: ignore[assignment]


class _Linear(torch.autograd.Function):
    forward = staticmethod(tied_kernels.tied_linear)
    setup_context = staticmethod(_keep)
    backward = staticmethod(once_differentiable(through_x_and_values(tied_kernels.tied_linear_backward, 2)))  # type: ignore[assignment]


class _Dense(torch.autograd.Function):
    forward = staticmethod(tied_kernels.tied_dense)
    setup_context = staticmethod(_keep_values)
    backward = staticmethod(once_differentiable(_through_values(tied_kernels.tied_dense_backward)))  # type: ignore[assignment]


_conv2d = custom_op("sparsecore::tied_conv2d", mutates_args=())(tied_kernels.tied_conv2d)
_conv2d_backward = custom_op("sparsecore::tied_conv2d_backward", mutates_args=())(tied_kernels.tied_conv2d_backward)
_linear = custom_op("sparsecore::tied_linear", mutates_args=())(tied_kernels.tied_linear)
_linear_backward = custom_op("sparsecore::tied_linear_backward", mutates_args=())(tied_kernels.tied_linear_backward)
_dense = custom_op("sparsecore::tied_dense", mutates_args=())(tied_kernels.tied_dense)
_dense_backward = custom_op("sparsecore::tied_dense_backward", mutates_args=())(tied_kernels.tied_dense_backward)


@_conv2d.register_fake
def _(x: Tensor, values: Tensor, shape: Sequence[int], key: int, stride: int, padding: int) -> Tensor:
    return functional.conv2d(x, x.new_empty(tuple(shape)), None, stride, padding)


@_conv2d_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    shape: Sequence[int],
    key: int,
    stride: int,
    padding: int,
    needs_x: bool,
) -> tuple[Tensor, Tensor]:
    by_x, _ = kernels.conv2d_gradients(gradient, x, x.new_empty(tuple(shape)), stride, padding, needs_x)
    return by_x, torch.empty_like(values)


@_linear.register_fake
def _(x: Tensor, values: Tensor, shape: Sequence[int], key: int) -> Tensor:
    return x.new_empty(x.shape[0], shape[0])


@_linear_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, values: Tensor, shape: Sequence[int], key: int, needs_x: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else (0,)), torch.empty_like(values)


@_dense.register_fake
def _(values: Tensor, shape: Sequence[int], key: int) -> Tensor:
    return values.new_empty(tuple(shape))


@_dense_backward.register_fake
def _(gradient: Tensor, values: Tensor, shape: Sequence[int], key: int) -> Tensor:
    return torch.empty_like(values)


_conv2d.register_autograd(through_x_and_values(_conv2d_backward, 4), setup_context=_keep)
_linear.register_autograd(through_x_and_values(_linear_backward, 2), setup_context=_keep)
_dense.register_autograd(_through_values(_dense_backward), setup_context=_keep_values)

DIRECT = TiedLayers(_Conv2d.apply, _Linear.apply, _Dense.apply)
"""Autograd functions, which cost the least."""

OPAQUE = TiedLayers(_conv2d, _linear, _dense)
"""Operators, for what is compiled: the hash in blocks would be unrolled there."""
