"""RigL (Evci et al. 2020): drop the smallest weights of each tensor, grow there where the dense gradient is largest."""

from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Cosine,
    Counts,
    Declares,
    Every,
    Gradient,
    Layout,
    Randomness,
    Schedule,
    StartDistribution,
    Topology,
    all_keep_values,
    as_many_as_lost,
    as_schedule,
    check_fraction,
    check_start_distribution,
    distribution,
    fraction_of,
    hookimpl,
    largest_free,
    random_topology,
    smallest_of_each,
)


@attrs.frozen(eq=False)
class RigL:
    """Drop the fraction f of each tensor's weights by |w|, grow as many there by |dense gradient| (Evci et al. 2020).

    The defaults are the paper's: f = α/2·(1 + cos(π·t/T_end)) with α 0.3, an update every 100 steps until T_end, 0.75
    of the run, in place of the optimizer's step. What grows starts at zero.

    What is dropped may grow again at once, and then keeps its value and its momentum, as in the authors' code; the
    run's ``regrow_pruned`` overrides that. With False or True, a tensor drops no more than it has had free positions.

    Attributes:
        drop_fraction: f.
        start: the start distribution: 'erk' (Erdős–Rényi with kernels, the paper's), 'er' or 'uniform'.
        schedule: when updates are due.
    """

    declares: ClassVar = Declares(
        smallest_first="tensor", shares="pruned", pruned_counts="fixed", grows_first="gradient"
    )
    tuning: ClassVar = {
        "drop_fraction.start": (0.1, 0.6),
        "schedule": [{"times": times, "until": 0.75} for times in (25, 100, 400)],
    }

    drop_fraction: Schedule = attrs.field(
        default=Cosine(0.3, 0.0, until=0.75), converter=as_schedule, validator=check_fraction
    )
    start: StartDistribution = attrs.field(default="erk", validator=check_start_distribution)
    schedule: Every = Every(steps=100, until=0.75)

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Start at random within each tensor.

        Returns:
            As many positions in each tensor as the start distribution says; with 'er' and 'erk' small tensors may be
            full.
        """
        return random_topology(layout, distribution(self.start)(layout, sparsity), random, arrays)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def replaces_step(self) -> bool:
        """Return True: an update replaces the optimizer's step."""
        return True

    @hookimpl
    def prune(self, topology: Topology, values: Array, keeps_regrown: bool, clock: Clock) -> Array:
        """In each tensor, drop the fraction f with the smallest |w|.

        Returns:
            bool, (N,), True for the survivors; the number dropped is rounded down. It is at most that of free
            positions, unless what grows again keeps its value.
        """
        dropped = fraction_of(self.drop_fraction(clock), topology.counts)
        if not keeps_regrown:
            dropped = np.minimum(dropped, topology.room)
        return topology.all_but(smallest_of_each(topology, values, dropped))

    keep_regrown = all_keep_values
    allocate = as_many_as_lost

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, gradient: Gradient) -> Array:
        """Grow where the dense gradient of the latest step is largest in absolute value.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i.
        """
        return largest_free(occupied, counts, gradient)
