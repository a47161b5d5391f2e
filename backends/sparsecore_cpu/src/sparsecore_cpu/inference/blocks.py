"""Predictions for blocks of as many images as a vector has lanes, by the kernels that train."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.learning import Model
from sparsecore_cpu.computation import CpuComputation
from sparsecore_cpu.inference.network import Network, Pictures
from sparsecore_cpu.machine import Floats, Machine
from sparsecore_numpy.weights import Weight

_MOST_BLOCKS = 8
"""At a time, which bounds the memory."""


@attrs.frozen(eq=False)
class Blocks:
    """A network for many images at a time."""

    pictures: Pictures
    model: Model
    parameters: Mapping[str, Any]
    computation: CpuComputation
    most: int

    @classmethod
    def of(cls, network: Network, machine: Machine) -> "Blocks":
        """The network with memory of its own, made when it is used."""
        most = _MOST_BLOCKS * machine.kernels.lanes
        return cls(network.pictures, network.model, _weights(network), CpuComputation(machine), most)

    def predict(self, images: NDArray[Any], logits: Floats) -> None:
        """Fill in the logits, (batch, classes)."""
        mean, std = (moment.astype(np.float32) for moment in (self.pictures.mean, self.pictures.std))
        for first in range(0, len(images), self.most):
            some = slice(first, first + self.most)
            normalized = (images[some].astype(np.float32) - mean) / std
            logits[some] = self.computation.logits(self.model, self.parameters, normalized)


def _weights(network: Network) -> dict[str, Any]:
    topology = network.topology
    sparse = {
        name: _weight(shape, topology.local(name), network.values[topology.slots(name)])
        for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)
    }
    trained = {parameter.name for parameter in network.parameters if parameter.trained}
    dense = {
        name: _weight(array.shape, np.arange(array.size), array.ravel()) if name in trained else array
        for name, array in network.dense.items()
    }
    return sparse | dense


def _weight(shape: tuple[int, ...], positions: NDArray[np.integer], values: Floats) -> Weight:
    return Weight(shape, np.asarray(positions, np.intp), values, np.zeros(0, np.float32))
