"""Momentum of all positions, active or not, from the dense gradients of every step."""

import attrs
import numpy as np

from sparsecore.engine.arrays import Array, Gradient
from sparsecore.engine.state import per_position
from sparsecore.engine.topology import Topology


@attrs.frozen(eq=False)
class DenseMomentum:
    """M, one entry a position: M ← β·M + g in every step."""

    momentum: Array = per_position()

    @classmethod
    def zero(cls, topology: Topology) -> "DenseMomentum":
        """Before the first step; float32, or what the gradients make of it."""
        arrays, layout = topology.arrays, topology.layout
        return cls(arrays.zeros_like(arrays.cast(topology.positions[:0], np.float32), layout.size))

    def after(self, gradient: Gradient, topology: Topology, decay: float) -> "DenseMomentum":
        """One step later."""
        dense = topology.arrays.concatenate([gradient(name) for name in topology.layout.names])
        return DenseMomentum(decay * self.momentum + dense)

    def by_name(self, topology: Topology) -> Gradient:
        """The momentum of a tensor, by its name: D_i entries."""
        layout = topology.layout

        def of(name: str) -> Array:
            tensor = layout.index(name)
            return self.momentum[layout.offsets[tensor] : layout.offsets[tensor + 1]]

        return of
