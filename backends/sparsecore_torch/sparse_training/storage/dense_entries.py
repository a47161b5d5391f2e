"""The active entries of dense tensors: their values, masks and indices."""

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from sparsecore.engine.topology import Topology
from sparsecore_torch.arrays import active_indices, gather_active, scatter
from sparsecore_torch.tensors import full_tensor


def gathered(parameters: Mapping[str, Tensor], topology: Topology) -> Tensor:
    """Gather the active entries of dense tensors. Collective where these are sharded.

    Args:
        parameters: the dense tensors by name, in the order of the layout.
        topology: the N active positions.

    Returns:
        The N values, in the common dtype of the tensors, at least float32.
    """
    dtype = reduce(torch.promote_types, (parameter.dtype for parameter in parameters.values()), torch.float32)
    return torch.cat(
        [
            gather_active(full_tensor(one), topology, topology.layout.index(name)).to(dtype)
            for name, one in parameters.items()
        ]
    )


def mask_of(topology: Topology, name: str) -> Tensor:
    """Return the mask of a tensor.

    Args:
        topology: the active positions.
        name: of the tensor.

    Returns:
        -1 for active weights, 0 elsewhere; int8, in the tensor's shape.
    """
    return mask_at(indices_of(topology, name), topology.layout.shapes[topology.layout.index(name)])


def mask_at(indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the mask of a tensor of this shape, as :func:`mask_of` does.

    Args:
        indices: row-major indices of the active weights, int64.
        shape: of the tensor.
    """
    return scatter(indices.new_full((len(indices),), -1, dtype=torch.int8), indices, shape)


def indices_of(topology: Topology, name: str) -> Tensor:
    """Return the row-major indices of a tensor's active weights, ascending, int64."""
    return active_indices(topology, topology.layout.index(name))
