"""The memory ledger of a network in training."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.ledger import Bytes, Ledger
from sparsecore_numpy.network import Dense, Sparse


def ledger(sparse: Sparse, dense: Dense) -> Ledger:
    """Bytes of all trained parameters.

    By formula the sparse tensors' positions are all the indices there are. What is measured has those that the
    operations keep beside them: where the entries of each tensor lie, in the orders in which it is made dense.
    """
    both = (sparse.vectors, dense.vectors)
    weights, size = sum(len(vectors.values) for vectors in both), sparse.vectors.values.itemsize
    states = [buffer for vectors in both for buffer in vectors.buffers.values()]
    tensors = [*sparse.tensors.values(), *dense.tensors.values()]
    kept = [index for weight in tensors for index in weight.indices]
    return Ledger(
        values=Bytes(weights * size, _bytes(vectors.values for vectors in both)),
        indices=Bytes(
            sparse.topology.size * sparse.topology.layout.position_dtype.itemsize,
            _bytes([sparse.topology.positions, *kept]),
        ),
        gradients=Bytes(weights * size, _bytes(vectors.gradient for vectors in both)),
        optimizer_state=Bytes(len(states) // len(both) * weights * size, _bytes(states)),
    )


def _bytes(arrays: Iterable[NDArray[Any]]) -> int:
    """The memory behind these arrays; what several are views of counts once."""
    owners = {id(owner): owner for owner in map(_owner, arrays)}
    return sum(owner.nbytes for owner in owners.values())


def _owner(array: NDArray[Any]) -> NDArray[Any]:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
