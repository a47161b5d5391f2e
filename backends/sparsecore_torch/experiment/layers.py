"""The kernels as differentiable layers: as autograd functions, and as operators for what is compiled.

``torch.compile`` does not look into an operator, so that a compiled network does not depend on how many weights a
tensor has, which changes with every reallocation; and the hash of tied weights is not unrolled.
"""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op
from torch.nn import functional

from sparsecore_torch.experiment import kernels

Function = Callable[..., Any]


@attrs.frozen(eq=False)
class Layers:
    """Differentiable layers, each with the arguments of its kernel.

    Attributes:
        conv2d: the cross-correlation of images with the weight.
        linear: the product of vectors with the weight.
        dense: the dense weight itself.
    """

    conv2d: Function
    linear: Function
    dense: Function


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    """Keep all inputs for the backward pass. In every kernel, the tensors are the first arguments."""
    tensors = [given for given in inputs if isinstance(given, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.others = inputs[len(tensors) :]


def _backward(kernel: Function) -> Function:
    """The backward pass of a layer whose first inputs are x and the values, the only ones that are differentiated."""

    def step(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, *others = ctx.needs_input_grad
        by_x, by_values = kernel(gradient, *ctx.saved_tensors, *ctx.others, needs_x)
        return by_x if needs_x else None, by_values, *(None for _ in others[1:])

    return step


def _backward_of_dense(kernel: Function) -> Function:
    """The backward pass of a layer whose first input are the values, the only ones that are differentiated."""

    def step(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _, *others = ctx.needs_input_grad
        return kernel(gradient, *ctx.saved_tensors, *ctx.others), *(None for _ in others)

    return step


def _as_autograd_function(kernel: Function, backward: Function) -> Function:
    members = {
        "forward": staticmethod(kernel),
        "setup_context": staticmethod(_save_inputs),
        "backward": staticmethod(once_differentiable(backward)),
    }
    function: Any = type(f"_{kernel.__name__}", (torch.autograd.Function,), members)
    apply: Function = function.apply
    return apply


def _as_operator(kernel: Function, backward_kernel: Function, through: Callable[[Function], Function]) -> Function:
    """An operator of torch's own, with its gradient and the shapes of its outputs."""
    forward, backward = (
        custom_op(f"sparsecore::{one.__name__}", mutates_args=())(one) for one in (kernel, backward_kernel)
    )
    shape_of = kernel.__name__.removeprefix("tied_")
    forward.register_fake(_OUTPUTS[shape_of])
    backward.register_fake(_GRADIENTS[shape_of])
    forward.register_autograd(through(backward), setup_context=_save_inputs)
    return forward


# in every kernel, the dense shape comes right after the arguments that say where the values are


def _conv2d_output(x: Tensor, *others: Any) -> Tensor:
    *_, shape, stride, padding = others
    return functional.conv2d(x, x.new_empty(tuple(shape)), None, stride, padding)


def _linear_output(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0], others[-1][0])


def _dense_output(values: Tensor, *others: Any) -> Tensor:
    return values.new_empty(tuple(others[-1]))


def _conv2d_gradients(gradient: Tensor, x: Tensor, values: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *_, shape, stride, padding, needs_x = others
    by_x, _ = kernels.conv2d_gradients(gradient, x, x.new_empty(tuple(shape)), stride, padding, needs_x)
    return by_x, torch.empty_like(values)


def _linear_gradients(gradient: Tensor, x: Tensor, values: Tensor, *others: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return x.new_empty(x.shape if others[-1] else (0,)), torch.empty_like(values)


def _dense_gradient(gradient: Tensor, values: Tensor, *others: Any) -> Tensor:  # noqa: ARG001
    return torch.empty_like(values)


_OUTPUTS: dict[str, Function] = {"conv2d": _conv2d_output, "linear": _linear_output, "dense": _dense_output}
_GRADIENTS: dict[str, Function] = {"conv2d": _conv2d_gradients, "linear": _linear_gradients, "dense": _dense_gradient}

SPARSE = Layers(
    _as_autograd_function(kernels.conv2d, _backward(kernels.conv2d_backward)),
    _as_autograd_function(kernels.linear, _backward(kernels.linear_backward)),
    _as_autograd_function(kernels.dense, _backward_of_dense(kernels.dense_backward)),
)
"""Layers with a sparse weight, as autograd functions, which cost least."""

TIED = Layers(
    _as_autograd_function(kernels.tied_conv2d, _backward(kernels.tied_conv2d_backward)),
    _as_autograd_function(kernels.tied_linear, _backward(kernels.tied_linear_backward)),
    _as_autograd_function(kernels.tied_dense, _backward_of_dense(kernels.tied_dense_backward)),
)
"""Layers with a tied weight, as autograd functions."""

SPARSE_OPERATORS = Layers(
    _as_operator(kernels.conv2d, kernels.conv2d_backward, _backward),
    _as_operator(kernels.linear, kernels.linear_backward, _backward),
    _as_operator(kernels.dense, kernels.dense_backward, _backward_of_dense),
)
"""Layers with a sparse weight, as operators, for what is compiled."""

TIED_OPERATORS = Layers(
    _as_operator(kernels.tied_conv2d, kernels.tied_conv2d_backward, _backward),
    _as_operator(kernels.tied_linear, kernels.tied_linear_backward, _backward),
    _as_operator(kernels.tied_dense, kernels.tied_dense_backward, _backward_of_dense),
)
"""Layers with a tied weight, as operators."""
