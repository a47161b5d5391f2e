"""Initial values as a function of (seed, purpose, tensor, position): any of them can be had again."""

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.parameters import Parameter
from sparsecore.randomness import Randomness
from sparsecore.topology import Topology


@attrs.frozen
class Draws:
    """Where initial values come from.

    Attributes:
        seed: of the run that drew them first.
        purpose: what they were drawn for; draws of two purposes have nothing in common.
    """

    seed: int
    purpose: str = "initial values"

    def sparse(self, topology: Topology, parameters: Sequence[Parameter]) -> NDArray[np.float64]:
        """The value of every active position."""
        sparse: Mapping[str, Parameter] = {parameter.name: parameter for parameter in parameters if parameter.sparse}
        return np.concatenate(
            [
                sparse[name].initial(sparse[name].shape, topology.local(name), self._of(name))
                for name in topology.layout.names
            ]
        )

    def dense(self, parameters: Sequence[Parameter]) -> dict[str, NDArray[np.float64]]:
        """The other parameters, by name, in their shapes."""
        return {parameter.name: self._whole(parameter) for parameter in parameters if not parameter.sparse}

    def _whole(self, parameter: Parameter) -> NDArray[np.float64]:
        positions = np.arange(int(np.prod(parameter.shape)))
        return parameter.initial(parameter.shape, positions, self._of(parameter.name)).reshape(parameter.shape)

    def _of(self, name: str) -> Randomness:
        return Randomness(self.seed).within(self.purpose, name)
