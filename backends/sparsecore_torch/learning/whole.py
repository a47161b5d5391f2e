"""The sparse tensors with all their positions: for a step whose dense gradients are asked for."""

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from sparsecore.topology import Topology
from sparsecore_torch.materialize import places


@attrs.frozen(eq=False)
class Whole:
    """Tensors laid out densely, zeros where no weight is, and their gradients.

    Attributes:
        topology: where weights are.
        values: all D_i entries of each tensor, to be differentiated by.
        positions: all D_i positions of each tensor.
    """

    topology: Topology
    values: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]

    @classmethod
    def of(cls, topology: Topology, values: Tensor) -> "Whole":
        """The tensors that have these N values."""
        layout, ends = topology.layout, zip(topology.layout.offsets[:-1], topology.layout.offsets[1:], strict=True)
        positions = tuple(
            torch.arange(*end, dtype=topology.positions.dtype, device=topology.positions.device) for end in ends
        )
        dense = tuple(values.new_zeros(size) for size in layout.sizes)
        for name, tensor, inside in zip(layout.names, dense, _inside(topology), strict=True):
            tensor[inside] = values[topology.slots(name)]
        return cls(topology, tuple(tensor.requires_grad_() for tensor in dense), positions)

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor, (D_i,)."""
        return _gradient(self.values[self.topology.layout.index(name)])

    def existing(self) -> Tensor:
        """The gradients of the weights that exist, (N,)."""
        both = zip(self.values, _inside(self.topology), strict=True)
        return torch.cat([_gradient(tensor)[inside] for tensor, inside in both])

    def each_gradient(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put what comes of it in the place of each gradient, in the order of the layout."""
        for tensor in self.values:
            tensor.grad = change(_gradient(tensor))


def _inside(topology: Topology) -> list[Tensor]:
    """The active positions of each tensor, counted from its own first one."""
    return [places(topology, tensor) for tensor in range(len(topology.layout))]


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, requires_grad=False) if tensor.grad is None else tensor.grad
