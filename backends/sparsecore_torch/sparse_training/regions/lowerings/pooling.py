"""Pooling of images."""

from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from sparsecore_cpu import pooling
from sparsecore_cpu.activations import Activation
from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import (
    Lowering,
    Lowerings,
    NotLowered,
    Operand,
    computed_layout,
)


def _check_images(input: Operand) -> Layout:
    if computed_layout(input) is not Layout.IMAGES:
        raise NotLowered("pooling of what are no images")
    return Layout.IMAGES


def _images(x: Activation) -> KernelTensor:
    form = x.form
    return KernelTensor(x, (form.images, form.channels, form.height, form.width), Layout.IMAGES)


def _to_one_pixel(output_size: Any) -> bool:
    return output_size in {1, (1, 1)} or output_size == [1, 1]


def _check_adaptive(input: Operand, output_size: Any) -> Layout:
    _check_images(input)
    return Layout.PIXELS if _to_one_pixel(output_size) else Layout.IMAGES


def _adaptive_average(run: Execution, input: Any, output_size: Any) -> KernelTensor:
    x = run.tensor(input)
    if _to_one_pixel(output_size):
        return KernelTensor(run.ops.global_average_pool(x.activation), (*x.shape[:2], 1, 1), Layout.PIXELS)
    size = output_size if isinstance(output_size, int) else tuple(output_size)
    return _images(pooling.adaptive_avg_pool2d(run.ops, x.activation, size))


def _adaptive_maximum(run: Execution, input: Any, output_size: Any) -> KernelTensor:
    x = run.tensor(input)
    if _to_one_pixel(output_size):
        return KernelTensor(pooling.global_max_pool(run.ops, x.activation), (*x.shape[:2], 1, 1), Layout.PIXELS)
    size = output_size if isinstance(output_size, int) else tuple(output_size)
    return _images(pooling.adaptive_max_pool2d(run.ops, x.activation, size))


def _check_max_pool2d(
    input: Operand,
    kernel_size: Any,  # noqa: ARG001
    stride: Any = None,  # noqa: ARG001
    padding: Any = 0,  # noqa: ARG001
    dilation: Any = 1,
    ceil_mode: bool = False,  # noqa: ARG001
    return_indices: bool = False,
) -> Layout:
    if return_indices or dilation not in {1, (1, 1)}:
        raise NotLowered("max pooling with dilation or indices")
    return _check_images(input)


def _max_pool2d(
    run: Execution,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,  # noqa: ARG001
    ceil_mode: bool = False,
    return_indices: bool = False,  # noqa: ARG001
) -> KernelTensor:
    x = run.tensor(input).activation
    return _images(pooling.max_pool2d(run.ops, x, kernel_size, stride or None, padding, ceil_mode=ceil_mode))


def _check_avg_pool2d(
    input: Operand,
    kernel_size: Any,  # noqa: ARG001
    stride: Any = None,  # noqa: ARG001
    padding: Any = 0,  # noqa: ARG001
    ceil_mode: bool = False,  # noqa: ARG001
    count_include_pad: bool = True,  # noqa: ARG001
    divisor_override: int | None = None,
) -> Layout:
    if divisor_override is not None:
        raise NotLowered("average pooling with a divisor of its own")
    return _check_images(input)


def _avg_pool2d(
    run: Execution,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,  # noqa: ARG001
) -> KernelTensor:
    x = run.tensor(input).activation
    options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return _images(pooling.avg_pool2d(run.ops, x, kernel_size, stride or None, padding, **options))


def _check_mean(input: Operand, dim: Any = None, keepdim: bool = False) -> Layout:
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    if computed_layout(input) is not Layout.IMAGES or sorted(one % 4 for one in dims) != [2, 3]:
        raise NotLowered("a mean over other dimensions than height and width")
    return Layout.PIXELS if keepdim else Layout.VECTORS


def _mean(run: Execution, input: Any, dim: Any = None, keepdim: bool = False) -> KernelTensor:  # noqa: ARG001
    x = run.tensor(input)
    pooled = run.ops.global_average_pool(x.activation)
    if keepdim:
        return KernelTensor(pooled, (*x.shape[:2], 1, 1), Layout.PIXELS)
    return KernelTensor(pooled, x.shape[:2], Layout.VECTORS)


_MEAN = Lowering(_check_mean, _mean)

LOWERINGS: Lowerings = MappingProxyType(
    {
        functional.adaptive_avg_pool2d: Lowering(_check_adaptive, _adaptive_average),
        functional.adaptive_max_pool2d: Lowering(_check_adaptive, _adaptive_maximum),
        functional.max_pool2d: Lowering(_check_max_pool2d, _max_pool2d),
        functional.avg_pool2d: Lowering(_check_avg_pool2d, _avg_pool2d),
        torch.mean: _MEAN,
        "mean": _MEAN,
    }
)
