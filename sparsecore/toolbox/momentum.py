"""Momentum of all positions, active or not, from the dense gradients of every step."""

import attrs
import numpy as np

from sparsecore.engine.arrays import Array, Gradient, WeightMomentum
from sparsecore.engine.state import by_tensor, per_position
from sparsecore.engine.topology import Topology


@attrs.frozen(eq=False)
class DenseMomentum:
    """The strategy state M ← β·M + g, one entry a position, which is updated in every step.

    Attributes:
        momentum: M, D entries, float32 at first.
    """

    momentum: Array = per_position()

    @classmethod
    def zero(cls, topology: Topology) -> "DenseMomentum":
        """Return the momentum before the first step.

        Args:
            topology: a topology of the layout; only its D and its backend matter.

        Returns:
            D zeros of float32, on the backend.
        """
        arrays, layout = topology.arrays, topology.layout
        return cls(arrays.zeros_like(arrays.cast(topology.positions[:0], np.float32), layout.size))

    def updated(self, gradient: Gradient, topology: Topology, decay: float) -> "DenseMomentum":
        """Return the momentum after a step.

        Args:
            gradient: the dense gradients of the step.
            topology: the active positions.
            decay: β.
        """
        dense = topology.arrays.concatenate([gradient(name) for name in topology.layout.names])
        return DenseMomentum(decay * self.momentum + dense)

    def with_weights(self, weight_momentum: WeightMomentum, topology: Topology) -> "DenseMomentum":
        """Return the momentum with the optimizer's own in the place of that of active weights.

        Args:
            weight_momentum: the optimizer's momentum of the active weights, by tensor.
            topology: the active positions.
        """
        arrays, given = topology.arrays, {name: weight_momentum(name) for name in topology.layout.names}
        known = {name: own for name, own in given.items() if own is not None}
        if not known:
            return self
        positions = arrays.concatenate([topology.positions[topology.slots(name)] for name in known])
        entries = arrays.concatenate([arrays.cast(own, self.momentum.dtype) for own in known.values()])
        return DenseMomentum(arrays.put(self.momentum, positions, entries))

    def by_tensor(self, topology: Topology) -> Gradient:
        """Return the momentum by tensor, in the form of a gradient.

        Args:
            topology: the active positions.

        Returns:
            A function from a tensor's name to its momentum, D_i entries.
        """
        return by_tensor(self.momentum, topology.layout)
