"""What it takes to compute a node of torch's graph by the kernels: a check when it is compiled, and a function."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from sparsecore_torch.sparse_training.regions.layouts import Layout


class NotLowered(Exception):  # noqa: N818  (it is no error: the node stays in torch)
    """Why the kernels do not compute a node."""


@attrs.frozen(eq=False)
class Operand:
    """A tensor that a node reads, as it is known when the graph is compiled.

    Attributes:
        example: a tensor without data, of the same shape and dtype; sizes may be symbols.
        layout: how the kernels store it; None for a tensor of torch's.
        is_stored: whether it is an input of the graph, such as a Parameter, and not computed.
    """

    example: Tensor
    layout: Layout | None
    is_stored: bool

    @property
    def ndim(self) -> int:
        """The number of its dimensions."""
        return self.example.ndim

    @property
    def shape(self) -> tuple[Any, ...]:
        """Its shape, perhaps of symbols."""
        return tuple(self.example.shape)


@attrs.frozen(eq=False)
class Lowering:
    """How the kernels compute a function of torch's.

    Attributes:
        check: called with the function's arguments, tensors as :class:`Operand`; returns the layout of the result, or
            raises a :class:`NotLowered`.
        run: called with the execution and the function's arguments, tensors as ``RegionInput`` or ``KernelTensor``;
            returns the result.
        is_view: whether torch's result may share the memory of an argument.
        takes_axes: whether ``run`` is called with ``axes``, too: the dimensions of torch's result in the order in which
            they lie in memory.
        gives_all_gradients: the names of arguments that get the gradients of all positions in steps that ask for them.
    """

    check: Callable[..., Layout]
    run: Callable[..., Any]
    is_view: bool = False
    takes_axes: bool = False
    gives_all_gradients: frozenset[str] = frozenset()


STORED = frozenset({"weight", "bias", "running_mean", "running_var", "values"})
"""The names of arguments that are Parameters or statistics."""

WRITTEN = frozenset({"running_mean", "running_var"})
"""The names of arguments that are written to."""

LAYOUT, LOWERING = "sparsecore_layout", "sparsecore_lowering"
"""Where a node of a region keeps, in its ``meta``, the layout of its result and how it is computed."""

Lowerings = Mapping[Any, Lowering]
"""Lowerings by the function, or by the name of a tensor's method."""

_STORED = (torch.float32, torch.bfloat16)


def check_activation(operand: Any) -> None:
    """Check that the kernels can compute with a tensor.

    Args:
        operand: an argument of a function.

    Raises:
        NotLowered: it is no tensor, not on the CPU, of another dtype, or empty.
    """
    if not isinstance(operand, Operand):
        raise NotLowered("it computes with a number where the kernels have tensors")
    example = operand.example
    if example.device.type != "cpu" or example.layout is not torch.strided:
        raise NotLowered("its input is not a dense tensor on the CPU")
    if example.dtype not in _STORED:
        raise NotLowered(f"its input is {str(example.dtype).removeprefix('torch.')}, and not float32")
    if any(isinstance(side, int) and side == 0 for side in example.shape):
        raise NotLowered("its input is empty")


def check_weight(operand: Any) -> None:
    """Check that the kernels can compute with a weight.

    Args:
        operand: an argument of a function.

    Raises:
        NotLowered: it is computed in the forward pass, or not float32.
    """
    if not isinstance(operand, Operand) or not operand.is_stored:
        raise NotLowered("its weight is computed in the forward pass")
    if operand.example.dtype is not torch.float32:
        raise NotLowered(f"its weight is {str(operand.example.dtype).removeprefix('torch.')}, and not float32")


def check_parameters(*parameters: Any) -> None:
    """Check each of some parameters as :func:`check_weight` does.

    Args:
        parameters: arguments of a function; None for those that it is not given.

    Raises:
        NotLowered: one is computed in the forward pass, or not float32.
    """
    for parameter in parameters:
        if parameter is not None:
            check_weight(parameter)


def check_layout(operand: Operand, *layouts: Layout) -> None:
    """Check how an operand is stored; tensors of torch's are converted to any layout.

    Args:
        operand: a tensor.
        layouts: those that the kernels read.

    Raises:
        NotLowered: it is a result of the kernels in another layout.
    """
    if operand.layout is not None and operand.layout not in layouts:
        raise NotLowered(f"its input is stored as {operand.layout.value}")


def computed_layout(operand: Any) -> Layout:
    """Return the layout of an operand that the kernels have computed.

    Args:
        operand: an argument of a function.

    Raises:
        NotLowered: it is a tensor of torch's, which is not worth converting for an operation by entries.
    """
    check_activation(operand)
    if operand.layout is None:
        raise NotLowered("no sparse layer computes its input")
    found: Layout = operand.layout
    return found
