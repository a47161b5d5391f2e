"""SMET, sparse memory-efficient training (Xiao et al. 2026): random growth whose weights start gently under Adam."""

from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Clock,
    Cosine,
    Declares,
    Every,
    Schedule,
    Topology,
    YoungWeights,
    as_many_as_lost,
    as_schedule,
    check_fraction,
    fraction_rounded_up,
    hookimpl,
    smallest_of_each,
)


@attrs.frozen(eq=False)
class MemoryEfficient:
    """Drop the smallest of each tensor, regrow there at random, and warm up what has grown (Xiao et al. 2026).

    A grown weight counts its own steps in Adam's bias correction, and its a-th step is multiplied by
    min(1, a / ``warm_up``); under optimizers other than Adam and AdamW it takes their steps.

    This follows the paper's abstract and the authors' released code, of which it is not a copy: there the count of a
    grown weight begins at one and not at zero, and the warm-up multiplies the stored first moment in each step, also
    that of all other weights at the start of the run. The second part of SMET, a learning rate that is raised for
    sparse networks, is left to the run, since a strategy has no part in the learning rate.

    Attributes:
        drop_fraction: of each tensor's weights; the numbers are rounded up, as in the authors' code.
        warm_up: the number of steps over which the steps of a grown weight become longer; 0 for none. It should not be
            longer than an interval between updates, or what has grown is dropped before it has moved.
        schedule: when updates are due.
    """

    declares: ClassVar = Declares(smallest_first="tensor", shares="pruned")
    tuning: ClassVar = {
        "drop_fraction.start": (0.1, 0.5),
        "warm_up": [0, 25, 100],
        "schedule": [{"times": times, "until": 0.8} for times in (25, 100, 400)],
    }

    drop_fraction: Schedule = attrs.field(default=Cosine(0.2, 0.005), converter=as_schedule, validator=check_fraction)
    warm_up: int = attrs.field(default=100, validator=attrs.validators.ge(0))
    schedule: Every = Every(steps=100)

    @hookimpl
    def young_weights(self) -> YoungWeights:
        """Let weights that have grown count their own steps, and warm up."""
        return YoungWeights(own_steps=True, warm_up=self.warm_up)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock) -> Array:
        """In each tensor, drop the fraction with the smallest |w|.

        Returns:
            bool, (N,), True for the survivors; the number dropped is rounded up; it leaves each tensor a
            weight, and is at most that of free positions.
        """
        dropped = np.minimum(fraction_rounded_up(self.drop_fraction(clock), topology.counts), topology.room)
        return topology.all_but(smallest_of_each(topology, values, dropped))

    allocate = as_many_as_lost
