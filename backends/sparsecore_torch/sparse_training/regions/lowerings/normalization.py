"""Batch norm, by the statistics of the batch or by the running ones; layer norm, RMS norm and group norm."""

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparsecore.host.computation import Moments
from sparsecore_cpu import normalization
from sparsecore_cpu.batch_norm import Norm
from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import (
    Lowering,
    Lowerings,
    NotLowered,
    Operand,
    check_activation,
    check_layout,
    check_parameters,
    computed_layout,
)


def _check_batch_norm(
    input: Operand,
    running_mean: Operand | None,
    running_var: Operand | None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    training: bool = False,  # noqa: ARG001
    momentum: Any = 0.1,
    eps: float = 1e-5,  # noqa: ARG001
) -> Layout:
    layout = computed_layout(input)
    check_parameters(running_mean, running_var, weight, bias)
    if not isinstance(momentum, float | int):
        raise NotLowered("its momentum is no number")
    if layout is Layout.VECTORS and input.ndim != 2:
        raise NotLowered("a batch norm of sequences")
    return layout


def _batch_norm(
    run: Execution,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> KernelTensor:
    x = run.tensor(input)
    channels = x.activation.form.channels
    if training or running_mean is None:
        moments = Moments(*x.activation.moments(), eps)
        if running_mean is not None:
            _move(running_mean.tensor, running_var.tensor, moments, x.activation.form.entries, momentum)
    else:
        moments = Moments(_double(running_mean.tensor), _double(running_var.tensor), eps)
    scale, shift = (None if one is None else run.weight(one) for one in (weight, bias))
    norm = Norm(
        moments,
        np.ones(channels) if scale is None else scale.to_array(),
        np.zeros(channels) if shift is None else shift.to_array(),
        is_of_batch=training or running_mean is None,
    )
    return x.with_activation(run.ops.normalized(x.activation, norm, scale, shift))


def _move(mean: Tensor, variance: Tensor, moments: Moments, count: int, momentum: float) -> None:
    """Move the running statistics towards those of a batch; ``count`` is the number of values of a channel."""
    unbiased = moments.variance * (count / max(count - 1, 1))
    mean.mul_(1 - momentum).add_(torch.from_numpy(moments.mean), alpha=momentum)
    variance.mul_(1 - momentum).add_(torch.from_numpy(unbiased), alpha=momentum)


def _double(statistics: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return statistics.detach().double().numpy()


def _check_over_features(input: Operand, normalized_shape: Any) -> Layout:
    check_activation(input)
    check_layout(input, Layout.VECTORS)
    if input.ndim < 2 or len(tuple(normalized_shape)) != 1:
        raise NotLowered("a norm over several dimensions")
    return Layout.VECTORS


def _check_layer_norm(
    input: Operand,
    normalized_shape: Any,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,  # noqa: ARG001
) -> Layout:
    check_parameters(weight, bias)
    return _check_over_features(input, normalized_shape)


def _layer_norm(
    run: Execution,
    input: Any,
    normalized_shape: Any,  # noqa: ARG001
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> KernelTensor:
    x = run.vectors(input)
    scale, shift = (None if one is None else run.weight(one) for one in (weight, bias))
    return x.with_activation(normalization.layer_norm(run.ops, x.activation, scale, shift, epsilon=eps))


def _check_rms_norm(
    input: Operand,
    normalized_shape: Any,
    weight: Operand | None = None,
    eps: float | None = None,  # noqa: ARG001
) -> Layout:
    check_parameters(weight)
    return _check_over_features(input, normalized_shape)


def _rms_norm(
    run: Execution,
    input: Any,
    normalized_shape: Any,  # noqa: ARG001
    weight: Any = None,
    eps: float | None = None,
) -> KernelTensor:
    x = run.vectors(input)
    scale = None if weight is None else run.weight(weight)
    epsilon = torch.finfo(torch.float32).eps if eps is None else eps
    return x.with_activation(normalization.rms_norm(run.ops, x.activation, scale, epsilon=epsilon))


def _check_group_norm(
    input: Operand,
    num_groups: int,  # noqa: ARG001
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,  # noqa: ARG001
) -> Layout:
    check_parameters(weight, bias)
    layout = computed_layout(input)
    if layout is Layout.VECTORS and input.ndim != 2:
        raise NotLowered("a group norm of sequences")
    return layout


def _group_norm(
    run: Execution, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> KernelTensor:
    x = run.tensor(input)
    scale, shift = (None if one is None else run.weight(one) for one in (weight, bias))
    return x.with_activation(normalization.group_norm(run.ops, x.activation, num_groups, scale, shift, epsilon=eps))


LOWERINGS: Lowerings = MappingProxyType(
    {
        functional.batch_norm: Lowering(_check_batch_norm, _batch_norm),
        functional.layer_norm: Lowering(_check_layer_norm, _layer_norm),
        functional.rms_norm: Lowering(_check_rms_norm, _rms_norm),
        torch.rms_norm: Lowering(_check_rms_norm, _rms_norm),
        functional.group_norm: Lowering(_check_group_norm, _group_norm),
    }
)
