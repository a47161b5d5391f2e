"""All that a network in training consists of: flat vectors, and views of them for each tensor."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.parameters import Parameter
from sparsecore.topology import Topology
from sparsecore_numpy.weights import Vectors, Weight, runs


@attrs.frozen(eq=False)
class Sparse:
    """The sparse tensors: all vectors have N entries."""

    topology: Topology
    vectors: Vectors
    tensors: Mapping[str, Weight]

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
    tensors: Mapping[str, Weight]

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
