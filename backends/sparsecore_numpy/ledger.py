"""The memory ledger of a network in training."""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.ledger import Bytes, Ledger
from sparsecore_numpy.network import Dense, Sparse
from sparsecore_numpy.weights import Weight


@attrs.frozen(eq=False)
class Kept:
    """What a computation keeps of a weight from one step to the next, beside the flat vectors.

    Attributes:
        indices: where its entries lie.
        values: copies of its values.
    """

    indices: tuple[NDArray[Any], ...]
    values: tuple[NDArray[Any], ...] = ()


def ledger(sparse: Sparse, dense: Dense, kept_of: Callable[[Weight], Kept]) -> Ledger:
    """Bytes of all trained parameters.

    By formula the sparse tensors' positions are all the indices there are, and the flat vectors all the values. What
    is measured has also what the computation keeps of each weight.
    """
    both = (sparse.vectors, dense.vectors)
    weights, size = sum(len(vectors.values) for vectors in both), sparse.vectors.values.itemsize
    states = [buffer for vectors in both for buffer in vectors.buffers.values()]
    kept = [kept_of(weight) for weight in (*sparse.tensors.values(), *dense.tensors.values())]
    copies = [array for one in kept for array in one.values]
    indices = [array for one in kept for array in one.indices]
    return Ledger(
        values=Bytes(weights * size, _bytes([*(vectors.values for vectors in both), *copies])),
        indices=Bytes(
            sparse.topology.size * sparse.topology.layout.position_dtype.itemsize,
            _bytes([sparse.topology.positions, *indices]),
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
