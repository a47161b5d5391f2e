"""SNFS, sparse momentum (Dettmers & Zettlemoyer 2019): momentum decides which tensors grow, and where."""

from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Clock,
    Cosine,
    Counts,
    Declares,
    DenseMomentum,
    DivergedError,
    Every,
    Gradient,
    Schedule,
    Topology,
    as_schedule,
    check_fraction,
    fraction_of,
    hookimpl,
    largest_free,
    shares,
    smallest_of_each,
    whole_numbers,
)


@attrs.frozen(eq=False)
class SparseMomentum:
    """Each epoch, drop a fraction of each tensor and regrow by momentum (Dettmers & Zettlemoyer 2019).

    Of each tensor the fraction with the smallest |w| is dropped. What all have lost is shared out over the tensors in
    proportion to the mean |momentum| of the weights that they had, what a full tensor cannot take among the others,
    and grows where |momentum| is largest.

    The momentum is one of all positions, M ← β·M + g in every step, whatever the optimizer is; it needs the dense
    gradient of every step and D entries of memory. The original reads the buffers of its optimizer (for Adam, its
    first moment over the root of the second). There what was just dropped may grow again at once; here the run's
    ``regrow_pruned`` says whether.

    Attributes:
        drop_fraction: of each tensor's weights; along a cosine from 0.5 to 0 at the end of the run.
        momentum: β.
        schedule: when updates are due.
    """

    declares: ClassVar = Declares(smallest_first="tensor")
    tuning: ClassVar = {
        "drop_fraction.start": (0.1, 0.6),
        "schedule": [{"times": times, "until": 0.8} for times in (25, 100, 400)],
    }

    drop_fraction: Schedule = attrs.field(default=Cosine(0.5, 0.0), converter=as_schedule, validator=check_fraction)
    momentum: float = attrs.field(default=0.9, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    schedule: Every = Every(epochs=1)

    @hookimpl
    def initial_strategy_state(self, topology: Topology) -> DenseMomentum:
        """Return zero momentum."""
        return DenseMomentum.zero(topology)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def observe(self, gradient: Gradient, topology: Topology, strategy_state: DenseMomentum) -> DenseMomentum:
        """Update the momentum of every position: M ← β·M + g.

        Returns:
            The momentum after the step, D entries.
        """
        return strategy_state.updated(gradient, topology, self.momentum)

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock) -> Array:
        """In each tensor, drop the fraction with the smallest |w|.

        Returns:
            bool, (N,), True for the survivors; the number dropped is rounded down.
        """
        dropped = fraction_of(self.drop_fraction(clock), topology.counts)
        return topology.all_but(smallest_of_each(topology, values, dropped))

    @hookimpl
    def allocate(self, total: int, room: Counts, topology: Topology, strategy_state: DenseMomentum) -> Counts:
        """Share out in proportion to the mean |momentum| of the weights that each tensor had before the update.

        Returns:
            int64, one number a tensor; what a full tensor cannot take goes to the others.

        Raises:
            DivergedError: a momentum is not finite.
        """
        return shares(total, whole_numbers(_means(topology, strategy_state)), room)

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, strategy_state: DenseMomentum) -> Array:
        """Grow where |momentum| is largest.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i.
        """
        return largest_free(occupied, counts, strategy_state.by_tensor(occupied))


def _means(topology: Topology, strategy_state: DenseMomentum) -> list[float]:
    """Return the mean |momentum| of each tensor's active weights."""
    arrays = topology.arrays
    active = arrays.to_numpy(arrays.cast(arrays.take(strategy_state.momentum, topology.positions), np.float64))
    # summed on the host, in the order of the positions: the same on every backend
    means = [float(np.mean(abs(active[topology.slots(name)]))) for name in topology.layout.names]
    for name, mean in zip(topology.layout.names, means, strict=True):
        if not np.isfinite(mean):
            raise DivergedError(f"training has diverged: the momentum of {name!r} is not finite")
    return means
