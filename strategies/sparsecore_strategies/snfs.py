"""SNFS, sparse momentum (Dettmers & Zettlemoyer 2019): momentum decides which tensors grow, and where."""

from collections.abc import Sequence
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
    WeightMomentum,
    all_keep_values,
    as_schedule,
    check_fraction,
    constant,
    fraction_of,
    fraction_rounded_up,
    hookimpl,
    largest_free,
    shares,
    smallest_of_each,
    whole_numbers,
)

FILLED = 0.99
"""The most of its room that a tensor fills in an update."""

NEARLY_FULL = 0.2
"""The sparsity below which a tensor that is growing drops no more than this."""


@attrs.frozen(eq=False)
class SparseMomentum:
    """Each epoch, drop a fraction of each tensor and regrow by momentum (Dettmers & Zettlemoyer 2019).

    Of each tensor the fraction with the smallest |w| is dropped; of one whose sparsity is below 0.2 and whose mean
    |momentum| is above the average, at most its sparsity. What all have lost is shared out over the tensors in
    proportion to the mean |momentum| of the weights that they had, and grows where |momentum| is largest. A tensor
    fills 0.99 of its room at most, what it cannot take goes to the others.

    The momentum M is one of all positions, which needs the dense gradient of every step and D entries of memory. Of
    active weights it is that which SGD keeps, weight decay included; elsewhere, and with other optimizers, M ← β·M + g,
    for which β should be SGD's. Weights that grow go on in SGD with their M. What is dropped may grow again at once,
    and then keeps its value and its momentum; the run's ``regrow_pruned`` overrides that.

    So it is in the authors' code, except that with Adam it reads the first moment over the root of the second, where
    here M decides and what grows starts with zero state; and that it lets the number of weights vary by some.

    Attributes:
        drop_fraction: of each tensor's weights; along a cosine from 0.5 to 0.005 at the end of the run. Numbers are
            rounded up.
        momentum: β.
        schedule: when updates are due.
    """

    declares: ClassVar = Declares(smallest_first="tensor")
    tuning: ClassVar = {
        "drop_fraction.start": (0.1, 0.6),
        "schedule": [{"times": times, "until": 0.8} for times in (25, 100, 400)],
    }

    drop_fraction: Schedule = attrs.field(default=Cosine(0.5, 0.005), converter=as_schedule, validator=check_fraction)
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
    def observe(
        self, gradient: Gradient, weight_momentum: WeightMomentum, topology: Topology, strategy_state: DenseMomentum
    ) -> DenseMomentum:
        """Update the momentum of every position: the optimizer's own of weights, M ← β·M + g elsewhere.

        Returns:
            The momentum after the step, D entries.
        """
        updated = strategy_state.updated(gradient, topology, self.momentum)
        return updated.with_weights(weight_momentum, topology)

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock, strategy_state: DenseMomentum) -> Array:
        """In each tensor, drop the fraction with the smallest |w|.

        Returns:
            bool, (N,), True for the survivors; the number dropped is rounded up, and leaves each tensor a weight.

        Raises:
            DivergedError: a momentum is not finite.
        """
        fractions = _drop_fractions(self.drop_fraction(clock), topology, _means(topology, strategy_state))
        pairs = zip(fractions, topology.counts.tolist(), strict=True)
        dropped = [fraction_rounded_up(fraction, constant(np.array([count]))) for fraction, count in pairs]
        return topology.all_but(smallest_of_each(topology, values, constant(np.concatenate(dropped))))

    keep_regrown = all_keep_values

    @hookimpl
    def allocate(self, total: int, room: Counts, topology: Topology, strategy_state: DenseMomentum) -> Counts:
        """Share out in proportion to the mean |momentum| of the weights that each tensor had before the update.

        Returns:
            int64, one number a tensor. A tensor fills at most 0.99 of its room, if all can hold the weights so; what it
            cannot take goes to the others, to each as many.

        Raises:
            DivergedError: a momentum is not finite.
        """
        means = np.where(room > 0, _means(topology, strategy_state), 0.0)
        most = fraction_of(FILLED, room)
        if total > most.sum():
            most = room
        wanted = shares(total, whole_numbers(means.tolist()), constant(np.full(len(room), total)))
        first = np.minimum(wanted, most)
        return first + shares(total - int(first.sum()), np.ones(len(room), np.int64), most - first)

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, strategy_state: DenseMomentum) -> Array:
        """Grow where |momentum| is largest.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i.
        """
        return largest_free(occupied, counts, strategy_state.by_tensor(occupied))

    @hookimpl
    def initial_momentum(self, grown: Topology, strategy_state: DenseMomentum) -> Array:
        """Return the momentum of the positions that have grown, by which SGD goes on with them."""
        return grown.arrays.take(strategy_state.momentum, grown.positions)


def _drop_fractions(fraction: float, topology: Topology, means: Sequence[float]) -> list[float]:
    """Return the fraction that each tensor drops: one that is nearly full and growing, at most its sparsity."""
    sparsities = (topology.room / np.asarray(topology.layout.sizes)).tolist()
    is_growing = [mean * len(means) > sum(means) for mean in means]
    return [
        min(fraction, sparsity) if sparsity < NEARLY_FULL and grows else fraction
        for sparsity, grows in zip(sparsities, is_growing, strict=True)
    ]


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
