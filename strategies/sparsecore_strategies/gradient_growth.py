"""A piece to stack on other strategies: growth where the dense gradient is largest (RigL's)."""

from typing import ClassVar

import attrs

from sparsecore.strategy import Array, Counts, Declares, Gradient, Topology, hookimpl, largest_free


@attrs.frozen(eq=False)
class GradientGrowth:
    """Grow where |dense gradient| is largest, in each tensor as many as the strategies below say (Evci et al. 2020)."""

    declares: ClassVar = Declares(grows_first="gradient")

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, gradient: Gradient) -> Array:
        """Return the free positions with the largest |dense gradient|."""
        return largest_free(occupied, counts, gradient)
