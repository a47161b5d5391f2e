"""All that a network in training consists of: flat vectors, and views of them for each tensor."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Topology
from sparsecore.host.weights import Vectors, WeightTensor, runs
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore.learning.parameters import Parameter


@attrs.frozen(eq=False)
class Sparse:
    """The sparse tensors: all vectors have N entries."""

    topology: Topology
    vectors: Vectors
    tensors: Mapping[str, WeightTensor]

    @classmethod
    def of(cls, topology: Topology, vectors: Vectors) -> "Sparse":
        """The tensors of this topology."""
        layout = topology.layout
        return cls(
            topology,
            vectors,
            {
                name: vectors.weight(shape, topology.slots(name), topology.local(name))
                for name, shape in zip(layout.names, layout.shapes, strict=True)
            },
        )


@attrs.frozen(eq=False)
class Dense:
    """The other trained parameters, end to end."""

    vectors: Vectors
    tensors: Mapping[str, WeightTensor]

    @classmethod
    def of(cls, parameters: list[Parameter], vectors: Vectors) -> "Dense":
        """The tensors of these parameters."""
        slots = runs([parameter.shape for parameter in parameters])
        return cls(
            vectors,
            {
                parameter.name: vectors.weight(parameter.shape, run, np.arange(run.stop - run.start))
                for parameter, run in zip(parameters, slots, strict=True)
            },
        )

    def copies(self) -> dict[str, NDArray[Any]]:
        """Their values, in their shapes."""
        slots = runs([tensor.shape for tensor in self.tensors.values()])
        return {
            name: self.vectors.values[run].reshape(tensor.shape).copy()
            for (name, tensor), run in zip(self.tensors.items(), slots, strict=True)
        }


@attrs.frozen(eq=False)
class Running:
    """The running statistics, end to end."""

    values: NDArray[Any]
    tensors: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, parameters: list[Parameter], values: NDArray[Any]) -> "Running":
        """The statistics of these parameters."""
        slots = runs([parameter.shape for parameter in parameters])
        return cls(
            values,
            {
                parameter.name: values[run].reshape(parameter.shape)
                for parameter, run in zip(parameters, slots, strict=True)
            },
        )


def flat(parameters: list[Parameter], start: Mapping[str, NDArray[np.float64]], dtype: str) -> NDArray[Any]:
    """The start values of these parameters, end to end."""
    return np.concatenate([np.zeros(0), *(np.ravel(start[parameter.name]) for parameter in parameters)]).astype(dtype)


@attrs.frozen(eq=False)
class CachedArrays:
    """What a computation keeps of a weight from one step to the next, beside the flat vectors.

    Attributes:
        indices: where its entries lie.
        values: copies of its values.
    """

    indices: tuple[NDArray[Any], ...]
    values: tuple[NDArray[Any], ...] = ()


def ledger(sparse: Sparse, dense: Dense, kept_of: Callable[[WeightTensor], CachedArrays]) -> Ledger:
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
