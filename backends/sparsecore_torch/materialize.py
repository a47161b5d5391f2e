"""Between N_i values and the dense tensor that a layer computes with; nothing here is recorded by autograd."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsecore.topology import Topology


def indices(positions: Tensor, offset: int) -> Tensor:
    """Where the weights of a tensor lie within it, row-major, int64.

    Args:
        positions: its N_i positions in the layout.
        offset: the tensor's first position.
    """
    return positions.long().sub_(offset) if positions.dtype is not torch.int64 else positions - offset


def places(topology: Topology, tensor: int) -> Tensor:
    """Where the weights of the tensor of this index lie within it, row-major, int64; on the device."""
    first, last = topology.bounds[tensor : tensor + 2]
    return indices(topology.positions[first:last], topology.layout.offsets[tensor])


def scatter(values: Tensor, indices: Tensor, shape: Sequence[int]) -> Tensor:
    """The dense tensor with the N_i values where their indices say, and zero elsewhere; in the dtype of the values."""
    dense = values.new_zeros(tuple(shape))
    dense.view(-1).index_copy_(0, indices, values.detach())
    return dense


def gather(dense: Tensor, indices: Tensor) -> Tensor:
    """The N_i entries of a dense tensor at these indices; whatever its strides."""
    return dense.reshape(-1).index_select(0, indices)
