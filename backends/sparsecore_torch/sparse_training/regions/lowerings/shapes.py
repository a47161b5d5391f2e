"""Other shapes of the same entries, and tensors side by side."""

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparsecore_cpu import shapes
from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import (
    Lowering,
    Lowerings,
    NotLowered,
    Operand,
    check_activation,
    computed_layout,
)


def _reshaped(layout: Layout, before: tuple[Any, ...], after: tuple[Any, ...]) -> Layout:
    """Return the layout after a change of shape that the kernels can make."""
    if layout is Layout.VECTORS and before[-1] == after[-1]:
        return Layout.VECTORS
    if layout is Layout.VECTORS and len(before) == 2 and len(after) == 4 and after[1:] == (before[1], 1, 1):
        return Layout.PIXELS
    if layout is not Layout.VECTORS and len(after) == 2 and before[0] == after[0]:
        return Layout.VECTORS
    raise NotLowered("a change of shape that the kernels do not make")


def _change(run: Execution, input: Any, layout: Layout, shape: tuple[int, ...]) -> KernelTensor:
    x = run.tensor(input)
    if x.layout is Layout.IMAGES:
        return KernelTensor(run.ops.flatten(x.activation, channels_first=True), shape, layout)
    return KernelTensor(x.activation, shape, layout)


def _check_flatten(input: Operand, start_dim: int = 0, end_dim: int = -1) -> Layout:
    return _reshaped(computed_layout(input), input.shape, tuple(input.example.flatten(start_dim, end_dim).shape))


def _flatten(run: Execution, input: Any, start_dim: int = 0, end_dim: int = -1) -> KernelTensor:
    after = _shape_of(input).flatten(start_dim, end_dim).shape
    return _change(run, input, _reshaped(run.tensor(input).layout, tuple(_shape_of(input).shape), after), tuple(after))


def _check_reshape(input: Operand, *shape: Any) -> Layout:
    if any(isinstance(one, torch.dtype) for one in shape):
        raise NotLowered("a view of the memory as another dtype")
    return _reshaped(computed_layout(input), input.shape, tuple(input.example.reshape(*shape).shape))


def _reshape(run: Execution, input: Any, *shape: Any) -> KernelTensor:
    before = _shape_of(input)
    after = tuple(before.reshape(*shape).shape)
    return _change(run, input, _reshaped(run.tensor(input).layout, tuple(before.shape), after), after)


def _shape_of(value: Any) -> Tensor:
    """A tensor without data of the shape of a value, for torch's own rules."""
    return torch.empty(value.shape, device="meta")


def _check_same(input: Operand) -> Layout:
    return computed_layout(input)


def _same(run: Execution, input: Any) -> KernelTensor:
    return run.tensor(input)


def _check_cat(tensors: Any, dim: int = 0) -> Layout:
    for one in tensors:
        check_activation(one)
    layouts = {one.layout for one in tensors} - {None}
    if len(layouts) != 1:
        raise NotLowered("its inputs are stored differently" if layouts else "no sparse layer computes its inputs")
    layout: Layout = next(iter(layouts))
    axis = tensors[0].ndim - 1 if layout is Layout.VECTORS else 1
    if dim % tensors[0].ndim != axis:
        raise NotLowered("tensors side by side along another dimension than the channels")
    return layout


def _cat(run: Execution, tensors: Any, dim: int = 0) -> KernelTensor:
    layout = next(one.layout for one in tensors if one.layout is not None)
    parts = [run.stored_as(one, layout) for one in tensors]
    shape = list(parts[0].shape)
    shape[dim] = sum(one.shape[dim] for one in parts)
    return KernelTensor(shapes.concatenate(run.ops, [one.activation for one in parts]), tuple(shape), layout)


_FLATTEN = Lowering(_check_flatten, _flatten, is_view=True)
_RESHAPE = Lowering(_check_reshape, _reshape, is_view=True)

LOWERINGS: Lowerings = MappingProxyType(
    {
        torch.flatten: _FLATTEN,
        "flatten": _FLATTEN,
        torch.reshape: _RESHAPE,
        "reshape": _RESHAPE,
        "view": _RESHAPE,
        "contiguous": Lowering(_check_same, _same, is_view=True),
        torch.cat: Lowering(_check_cat, _cat),
    }
)
