"""A piece to stack on others: the start distribution ERK (RigL's)."""

import attrs

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.distributions import erdos_renyi_kernel
from sparsecore.engine.growth import random_topology
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.layout import Layout
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Topology


@attrs.frozen(eq=False)
class ErkStart:
    """Start at random positions, density ∝ (Σ dims)/(Π dims), tensors that would be more than full capped at full."""

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Random positions, as many in each tensor as ERK says."""
        return random_topology(layout, erdos_renyi_kernel(layout, sparsity), random, arrays)
