"""Functions of each entry: activation functions and dropout."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sparsecore_cpu import pointwise
from sparsecore_cpu.activations import Activation
from sparsecore_cpu.dropout import dropout
from sparsecore_cpu.operations import CpuOperations
from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import (
    Lowering,
    Lowerings,
    NotLowered,
    Operand,
    computed_layout,
)

Compute = Callable[[CpuOperations, Activation], Activation]


def _check(input: Operand, inplace: bool = False) -> Layout:  # noqa: ARG001
    return computed_layout(input)


def _function(compute: Compute) -> Lowering:
    """Lower a function without settings."""

    def run(run: Execution, input: Any, inplace: bool = False) -> KernelTensor:  # noqa: ARG001
        x = run.tensor(input)
        return x.with_activation(compute(run.ops, x.activation))

    return Lowering(_check, run)


def _check_leaky_relu(input: Operand, negative_slope: float = 0.01, inplace: bool = False) -> Layout:  # noqa: ARG001
    return computed_layout(input)


def _leaky_relu(run: Execution, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> KernelTensor:  # noqa: ARG001
    x = run.tensor(input)
    return x.with_activation(pointwise.leaky_relu(run.ops, x.activation, slope=negative_slope))


def _check_elu(input: Operand, alpha: float = 1.0, inplace: bool = False) -> Layout:  # noqa: ARG001
    return computed_layout(input)


def _elu(run: Execution, input: Any, alpha: float = 1.0, inplace: bool = False) -> KernelTensor:  # noqa: ARG001
    x = run.tensor(input)
    return x.with_activation(pointwise.elu(run.ops, x.activation, alpha=alpha))


def _check_hardtanh(
    input: Operand,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,  # noqa: ARG001
) -> Layout:
    if (min_val, max_val) != (0, 6):
        raise NotLowered("a hardtanh that is no relu6")
    return computed_layout(input)


def _hardtanh(
    run: Execution,
    input: Any,
    min_val: float = -1.0,  # noqa: ARG001
    max_val: float = 1.0,  # noqa: ARG001
    inplace: bool = False,  # noqa: ARG001
) -> KernelTensor:
    x = run.tensor(input)
    return x.with_activation(pointwise.relu6(run.ops, x.activation))


def _check_gelu(input: Operand, *, approximate: str = "none") -> Layout:  # noqa: ARG001
    return computed_layout(input)


def _gelu(run: Execution, input: Any, *, approximate: str = "none") -> KernelTensor:
    x = run.tensor(input)
    return x.with_activation(pointwise.gelu(run.ops, x.activation, tanh=approximate == "tanh"))


def _check_dropout(input: Operand, p: float = 0.5, training: bool = True, inplace: bool = False) -> Layout:  # noqa: ARG001
    return computed_layout(input)


def _dropout(
    run: Execution,
    input: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,  # noqa: ARG001
    *,
    axes: Sequence[int],
) -> KernelTensor:
    x = run.tensor(input)
    if not training or p == 0:
        return x
    # as torch draws it, so that a region drops the entries that torch would have dropped: in the order of its memory
    drawn = torch.zeros([x.shape[axis] for axis in axes], dtype=torch.float32)
    if p != 1:
        drawn.bernoulli_(1 - p)
    kept = drawn.permute([axes.index(axis) for axis in range(len(axes))])
    if x.layout is Layout.IMAGES:
        kept = kept.permute(0, 2, 3, 1)
    logical = kept.numpy().astype(np.bool_).reshape(x.activation.form.dense)
    return x.with_activation(dropout(run.ops, x.activation, logical, p))


_RELU = _function(CpuOperations.relu)
_SIGMOID, _TANH = _function(pointwise.sigmoid), _function(pointwise.tanh)

LOWERINGS: Lowerings = MappingProxyType(
    {
        functional.relu: _RELU,
        torch.relu: _RELU,
        torch.relu_: _RELU,
        "relu": _RELU,
        "relu_": _RELU,
        functional.relu6: _function(pointwise.relu6),
        functional.hardtanh: Lowering(_check_hardtanh, _hardtanh),
        functional.leaky_relu: Lowering(_check_leaky_relu, _leaky_relu),
        functional.elu: Lowering(_check_elu, _elu),
        functional.silu: _function(pointwise.silu),
        functional.mish: _function(pointwise.mish),
        functional.gelu: Lowering(_check_gelu, _gelu),
        functional.hardswish: _function(pointwise.hardswish),
        functional.hardsigmoid: _function(pointwise.hardsigmoid),
        torch.sigmoid: _SIGMOID,
        functional.sigmoid: _SIGMOID,
        "sigmoid": _SIGMOID,
        torch.tanh: _TANH,
        functional.tanh: _TANH,
        "tanh": _TANH,
        # in evaluation torch returns the very argument
        functional.dropout: Lowering(_check_dropout, _dropout, is_view=True, takes_axes=True),
    }
)
