"""A piece to stack on other strategies: the start distribution ERK (RigL's)."""

import attrs

from sparsecore.strategy import Arrays, Layout, Randomness, Topology, erdos_renyi_kernel, hookimpl, random_topology


@attrs.frozen(eq=False)
class ErkStart:
    """Start at random positions, density ∝ (Σ dims)/(Π dims), tensors that would be more than full capped at full."""

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Return random positions, as many in each tensor as ERK says."""
        return random_topology(layout, erdos_renyi_kernel(layout, sparsity), random, arrays)
