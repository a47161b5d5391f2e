"""Convolutions and linear layers."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from sparsecore.errors import InputError
from sparsecore_cpu.arguments import pair_of
from sparsecore_cpu.window import Padding, Window
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
)


def _window(weight: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int) -> Window:
    """The window of a convolution whose weight has this shape."""
    dilation = pair_of("dilation", dilation)
    if padding == "same":
        # torch puts the odd pixel at the bottom and the right, too
        padding = Padding.same((int(weight[2]), int(weight[3])), dilation)
    elif padding == "valid":
        padding = 0
    return Window(stride, padding, dilation, groups)


def _check_conv2d(
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Layout:
    check_activation(input)
    check_parameters(weight, bias)
    if input.ndim != 4:
        raise NotLowered("its input is one image, and not a batch")
    try:
        window = _window(weight.shape, stride, padding, dilation, groups)
    except InputError as error:
        raise NotLowered(str(error)) from None
    is_by_pixel = weight.shape[2:] == (1, 1) and groups == 1 and window.padding.most == 0
    if input.layout is Layout.PIXELS and not is_by_pixel:
        raise NotLowered("a window on images of one pixel")
    check_layout(input, Layout.IMAGES, Layout.PIXELS)
    return input.layout or Layout.IMAGES


def _conv2d(
    run: Execution,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> KernelTensor:
    shift = None if bias is None else run.weight(bias)
    view = run.weight(weight)
    window = _window(view.shape, stride, padding, dilation, groups)
    x = run.images(input, window.padding.most)
    if x.layout is Layout.PIXELS:
        out = run.ops.linear(x.activation, run.weight(weight, view.shape[:2]), shift)
        return KernelTensor(out, (*x.shape[:1], view.shape[0], 1, 1), Layout.PIXELS)
    out = run.ops.conv2d(
        x.activation,
        view,
        shift,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=groups,
    )
    form = out.form
    return KernelTensor(out, (form.images, form.channels, form.height, form.width), Layout.IMAGES)


def _check_linear(input: Operand, weight: Operand, bias: Operand | None = None) -> Layout:
    check_activation(input)
    check_parameters(weight, bias)
    if input.ndim < 2:
        raise NotLowered("its input is one vector, and not a batch")
    if weight.ndim != 2:
        raise NotLowered("its weight is no matrix")
    check_layout(input, Layout.VECTORS)
    return Layout.VECTORS


def _linear(run: Execution, input: Any, weight: Any, bias: Any = None) -> KernelTensor:
    x = run.vectors(input)
    view = run.weight(weight)
    out = run.ops.linear(x.activation, view, None if bias is None else run.weight(bias))
    return KernelTensor(out, (*x.shape[:-1], view.shape[0]), Layout.VECTORS)


LOWERINGS: Lowerings = MappingProxyType(
    {
        torch.conv2d: Lowering(_check_conv2d, _conv2d),
        functional.linear: Lowering(_check_linear, _linear, gives_all_gradients=frozenset({"weight"})),
    }
)
