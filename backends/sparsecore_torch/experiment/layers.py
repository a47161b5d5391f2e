"""Layers with a sparse weight, differentiable, in two forms of the same kernels."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsecore_torch.experiment import kernels, operators

Function = Callable[..., Any]


@attrs.frozen(eq=False)
class Layers:
    """Each takes what the kernel of its name takes."""

    conv2d: Function
    linear: Function
    dense: Function


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, values, positions, *ctx.rest = inputs
    ctx.save_for_backward(x, values, positions)


def _keep_positions(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _, positions, ctx.offset, _ = inputs
    ctx.save_for_backward(positions)


def through_x_and_values(backward: Function, others: int) -> Function:
    """The backward pass of a layer that has so many other inputs than x and values."""

    def step(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needs_x = ctx.needs_input_grad[0]
        by_x, by_values = backward(gradient, *ctx.saved_tensors, *ctx.rest, needs_x)
        return by_x if needs_x else None, by_values, *(None,) * others

    return step


def _through_values(backward: Function) -> Function:
    return lambda ctx, gradient: (backward(gradient, *ctx.saved_tensors, ctx.offset), None, None, None)


class _Conv2d(torch.autograd.Function):
    forward = staticmethod(kernels.conv2d)
    setup_context = staticmethod(_keep)
    backward = staticmethod(once_differentiable(through_x_and_values(kernels.conv2d_backward, 5)))  # type: ignore[assignment]


class _Linear(torch.autograd.Function):
    forward = staticmethod(kernels.linear)
    setup_context = staticmethod(_keep)
    backward = staticmethod(once_differentiable(through_x_and_values(kernels.linear_backward, 3)))  # type: ignore[assignment]


class _Dense(torch.autograd.Function):
    forward = staticmethod(kernels.dense)
    setup_context = staticmethod(_keep_positions)
    backward = staticmethod(once_differentiable(_through_values(kernels.dense_backward)))  # type: ignore[assignment]


operators.conv2d.register_autograd(through_x_and_values(operators.conv2d_backward, 5), setup_context=_keep)
operators.linear.register_autograd(through_x_and_values(operators.linear_backward, 3), setup_context=_keep)
operators.dense.register_autograd(_through_values(operators.dense_backward), setup_context=_keep_positions)

DIRECT = Layers(_Conv2d.apply, _Linear.apply, _Dense.apply)
"""Autograd functions, which cost the least."""

OPAQUE = Layers(operators.conv2d, operators.linear, operators.dense)
"""Operators, for what is compiled."""
