"""Sums and products: of two tensors, of images with a factor for each channel, with numbers, and with Parameters."""

import math
import operator
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch

from sparsecore_cpu import products
from sparsecore_cpu.activations import Activation
from sparsecore_cpu.operations import CpuOperations
from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import (
    Lowering,
    Lowerings,
    NotLowered,
    Operand,
    check_activation,
    check_weight,
    computed_layout,
)
from sparsecore_torch.sparse_training.regions.weights import RegionInput

Combine = Callable[[CpuOperations, Activation, Activation], Activation]
WithNumber = Callable[[CpuOperations, Activation, float], Activation]

_OVER_PIXELS = frozenset({Layout.IMAGES, Layout.PIXELS})


def _layout_of_pair(input: Any, other: Any) -> Layout:
    """Return the layout of the result of two operands, of which one may be a number."""
    tensors = [one for one in (input, other) if isinstance(one, Operand)]
    if len(tensors) == 1:
        if not all(isinstance(one, Operand | int | float) for one in (input, other)):
            raise NotLowered("it computes with something that is no number and no tensor")
        if not all(isinstance(one, Operand) or math.isfinite(one) for one in (input, other)):
            raise NotLowered("it computes with a number that is not finite")
        return computed_layout(tensors[0])
    for one in tensors:
        check_activation(one)
    layouts = {one.layout for one in tensors} - {None}
    if layouts == _OVER_PIXELS and input.shape[:2] == other.shape[:2]:
        return Layout.IMAGES
    if input.shape != other.shape:
        raise NotLowered("tensors of different shapes")
    if len(layouts) != 1:
        raise NotLowered("its inputs are stored differently" if layouts else "no sparse layer computes its inputs")
    return next(iter(layouts))  # type: ignore[return-value]


def _check_add(input: Any, other: Any, *, alpha: float = 1) -> Layout:
    if alpha != 1:
        raise NotLowered("a sum with a factor")
    return _layout_of_pair(input, other)


def _is_channel_factor(parameter: Any, x: Any) -> bool:
    """Whether a Parameter is a factor for each feature of vectors."""
    return (
        isinstance(parameter, Operand)
        and parameter.is_stored
        and parameter.ndim == 1
        and isinstance(x, Operand)
        and x.layout is Layout.VECTORS
        and x.shape[-1] == parameter.shape[0]
    )


def _check_multiply(input: Any, other: Any) -> Layout:
    for factor, x in ((input, other), (other, input)):
        if _is_channel_factor(factor, x):
            check_weight(factor)
            return computed_layout(x)
    return _layout_of_pair(input, other)


def _check_divide(input: Any, other: Any) -> Layout:
    if isinstance(other, Operand):
        raise NotLowered("a quotient of tensors")
    if other == 0:
        raise NotLowered("a quotient by zero")
    return _layout_of_pair(input, other)


def _combined(run: Execution, input: Any, other: Any, combine: Combine, number: WithNumber) -> KernelTensor:
    for factor, one in ((input, other), (other, input)):
        if isinstance(factor, int | float):
            x = run.tensor(one)
            return x.with_activation(number(run.ops, x.activation, float(factor)))
    if input.layout is not None and other.layout is not None and input.layout is not other.layout:
        images, pixels = (input, other) if input.layout is Layout.IMAGES else (other, input)
        x = run.tensor(images)
        return x.with_activation(combine(run.ops, x.activation, run.tensor(pixels).activation))
    layout = input.layout or other.layout
    x, y = run.stored_as(input, layout), run.stored_as(other, layout)
    return x.with_activation(combine(run.ops, x.activation, y.activation))


def _add(run: Execution, input: Any, other: Any, *, alpha: float = 1) -> KernelTensor:  # noqa: ARG001
    return _combined(run, input, other, _sum, products.shift)


def _sum(ops: CpuOperations, x: Activation, y: Activation) -> Activation:
    # the sum of equal shapes is fused with a convolution
    if x.form.dense != y.form.dense:
        return products.add(ops, x, y)
    border = max(x.form.border, y.form.border)
    return ops.add(*(one if one.form.border == border else products.with_border(ops, one, border) for one in (x, y)))


def _multiply(run: Execution, input: Any, other: Any) -> KernelTensor:
    for factor, one in ((input, other), (other, input)):
        if isinstance(factor, RegionInput) and factor.tensor.ndim == 1:
            x = run.vectors(one)
            return x.with_activation(products.scale_channels(run.ops, x.activation, run.weight(factor)))
    return _combined(run, input, other, products.multiply, products.scale)


def _divide(run: Execution, input: Any, other: float) -> KernelTensor:
    return _multiply(run, input, 1 / other)


_ADD, _MULTIPLY = Lowering(_check_add, _add), Lowering(_check_multiply, _multiply)
_DIVIDE = Lowering(_check_divide, _divide)

LOWERINGS: Lowerings = MappingProxyType(
    {
        operator.add: _ADD,
        operator.iadd: _ADD,
        torch.add: _ADD,
        "add": _ADD,
        "add_": _ADD,
        operator.mul: _MULTIPLY,
        operator.imul: _MULTIPLY,
        torch.mul: _MULTIPLY,
        "mul": _MULTIPLY,
        "mul_": _MULTIPLY,
        operator.truediv: _DIVIDE,
        torch.div: _DIVIDE,
        "div": _DIVIDE,
    }
)
