"""Export of a sparse training as a plain module, or as sparse matrices; the training itself continues."""

import warnings

import torch
from torch import Tensor, nn

from sparsecore.engine.topology import Topology
from sparsecore_torch.arrays import active_indices
from sparsecore_torch.sparse_training.storage.compact_modules import plain_copy
from sparsecore_torch.sparse_training.training import SparseTraining


def to_csr(training: SparseTraining) -> dict[str, Tensor]:
    """Return every sparse tensor as a ``torch.sparse_csr`` matrix, on the device of the training.

    Args:
        training: is not changed.

    Returns:
        The matrices by name, with a row for each entry of the tensor's first side: a linear layer's weight has its own
        shape (out, in), a convolution's is (out, in·height·width). Each active weight is stored, also where its value
        is zero, as those of weights that the model does not compute with; indices are int64, values have the widest
        dtype among the tensors, at least float32.

    Raises:
        InputError: the model's weights are not those of the training (:meth:`SparseTraining.check`).
    """
    topology, values = training.topology, training.values(silent=False)
    return {name: _csr(topology, index, values) for index, name in enumerate(topology.layout.names)}


def squashed_copy(training: SparseTraining) -> nn.Module:
    """Return a plain copy of the model as it is now, with its zeros; the training and its model stay as they are.

    Args:
        training: is not changed.

    Raises:
        InputError: the model's weights are not those of the training (:meth:`SparseTraining.check`).
    """
    training.check()
    return plain_copy(training.model)


def _csr(topology: Topology, index: int, values: Tensor) -> Tensor:
    rows = topology.layout.shapes[index][0]
    columns = topology.layout.sizes[index] // rows
    indices = active_indices(topology, index)
    starts = torch.arange(rows + 1, device=indices.device) * columns
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            torch.searchsorted(indices, starts),
            indices % columns,
            values[topology.bounds[index] : topology.bounds[index + 1]],
            (rows, columns),
            check_invariants=True,
        )
