"""Dense weights made of the N_i active ones: for a forward pass, and again for its backward pass."""

import attrs
import torch
from torch import Tensor

from sparsecore.engine.topology import Topology
from sparsecore_torch._torch_internals.tensors import write_count
from sparsecore_torch.arrays import active_indices, scatter


@attrs.frozen(eq=False)
class Remaker:
    """Makes a dense weight again for the backward pass.

    The values are a detached alias, which shares the memory and the write count of the Parameter.
    """

    values: Tensor
    topology: Topology
    index: int
    dtype: torch.dtype
    version: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "version", write_count(self.values))

    def __call__(self) -> Tensor:
        """Return the dense weight.

        Raises:
            RuntimeError: the values have been written to since the forward pass.
        """
        if write_count(self.values) != self.version:
            raise RuntimeError(
                "the values of sparse weights have been modified by an inplace operation between the forward pass "
                f"and its backward pass: they are at version {write_count(self.values)}, expected {self.version}"
            )
        return scattered(self.values[_slots(self.topology, self.index)], self.topology, self.index, self.dtype)


def scattered(values: Tensor, topology: Topology, index: int, dtype: torch.dtype) -> Tensor:
    """Return the dense weight, not differentiable.

    Args:
        values: (N_i,), of the tensor's active positions.
        topology: the active positions.
        index: of the tensor in the layout.
        dtype: of the dense weight.
    """
    return scatter(values.detach().to(dtype), active_indices(topology, index), topology.layout.shapes[index])


def transformable(values: Tensor, topology: Topology, index: int, dtype: torch.dtype) -> Tensor:
    """Return the dense weight by operations that the transforms of torch.func support; kept for the backward pass."""
    shape = topology.layout.shapes[index]
    zeros = values.new_zeros(topology.layout.sizes[index], dtype=dtype)
    return zeros.index_copy(0, active_indices(topology, index), values.to(dtype)).reshape(shape)


def is_dense(topology: Topology, index: int) -> bool:
    """Whether all weights of a tensor are active, so that its values are the dense tensor."""
    return int(topology.counts[index]) == topology.layout.sizes[index]


def _slots(topology: Topology, index: int) -> slice:
    return slice(topology.bounds[index], topology.bounds[index + 1])
