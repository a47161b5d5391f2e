"""A piece to stack on other strategies: growth where the dense momentum is largest (SNFS's)."""

import attrs

from sparsecore.strategy import Array, Counts, DenseMomentum, Gradient, Topology, hookimpl, largest_free


@attrs.frozen(eq=False)
class MomentumGrowth:
    """Grow where |momentum| is largest, as many as the strategies below say (Dettmers & Zettlemoyer 2019).

    It needs the dense gradient of every step, and D entries of memory.

    Attributes:
        momentum: β of M ← β·M + g.
    """

    momentum: float = attrs.field(default=0.9, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])

    @hookimpl
    def initial_strategy_state(self, topology: Topology) -> DenseMomentum:
        """Return zero momentum."""
        return DenseMomentum.zero(topology)

    @hookimpl
    def observe(self, gradient: Gradient, topology: Topology, strategy_state: DenseMomentum) -> DenseMomentum:
        """Update the momentum of every position: M ← β·M + g.

        Returns:
            The momentum after the step, D entries.
        """
        return strategy_state.updated(gradient, topology, self.momentum)

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, strategy_state: DenseMomentum) -> Array:
        """Grow where |momentum| is largest.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i.
        """
        return largest_free(occupied, counts, strategy_state.by_tensor(occupied))
