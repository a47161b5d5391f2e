"""MEST, memory-economic sparse training (Yuan et al. 2021): drop by weight and gradient, move less and less."""

from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Cosine,
    Counts,
    CubicPruning,
    Declares,
    Every,
    Layout,
    Randomness,
    Schedule,
    StartDistribution,
    Topology,
    as_schedule,
    check_fraction,
    check_start_distribution,
    distribution,
    fraction_of,
    hookimpl,
    random_topology,
    shares,
    smallest_of_each,
    weight_counts_error,
)


@attrs.frozen(eq=False)
class Budget:
    """The number of weights of each tensor at the start.

    Attributes:
        counts: int64, one number a tensor.
    """

    counts: Counts

    def loading_error(self, like: "Budget", topology: Topology) -> str | None:
        """Return what is wrong with numbers of weights that were read."""
        return weight_counts_error("counts", self.counts, like.counts, topology)


@attrs.frozen(eq=False)
class MemoryEconomic:
    """Drop a fraction of each tensor's weights by |w| + λ|g|, grow as many there at random (Yuan et al. 2021).

    g is the gradient of the latest step, for the active weights alone: no dense gradient is computed. What grows starts
    at zero. This is MEST with elastic mutation (EM): the fraction becomes smaller along the run, and nothing moves from
    ``until`` on.

    With ``soft_bound`` (EM&S) weights are dropped one update after others have grown in their place, so that new
    weights compete with old ones when they have been trained. An update prunes each tensor to its number of weights at
    the start, and then grows the fraction of that number in addition. Between updates the network has more weights than
    at the start, by the fraction; the update at ``until`` prunes it to that number again.

    The authors' scripts for ResNet-32 at sparsity 0.9 have 160 epochs, an update every 5, a fraction of 0.2 (with the
    soft bound 0.5) that is halved at epoch 90, and the end at epoch 120. They leave λ at 0, which ranks by |w| alone.
    With the soft bound they grow once before the first step; here the first update does.

    Attributes:
        mutation: the fraction of each tensor's weights that an update moves. A tensor never moves more than it has free
            positions.
        gradient_weight: λ.
        soft_bound: whether weights are dropped at the update after the growth.
        until: from which fraction of the run on nothing grows.
        start: the start distribution: 'uniform' (the paper's), 'erk' or 'er'.
        schedule: when updates are due.
    """

    tuning: ClassVar = {
        "mutation.start": (0.1, 0.6),
        "gradient_weight": [0.0, 0.5, 5.0],
        "schedule": [{"times": times, "until": 0.75} for times in (25, 100)],
    }

    mutation: Schedule = attrs.field(
        default=Cosine(0.2, 0.0, until=0.75), converter=as_schedule, validator=check_fraction
    )
    gradient_weight: float = attrs.field(default=0.5, validator=attrs.validators.ge(0))
    soft_bound: bool = False
    until: float = attrs.field(default=0.75, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    start: StartDistribution = attrs.field(default="uniform", validator=check_start_distribution)
    schedule: Every = Every(epochs=5)

    @property
    def declares(self) -> Declares:
        """Declare that the smallest weights go first where λ is 0, and growth where weights were lost without EM&S."""
        return Declares(
            smallest_first=None if self.gradient_weight else "tensor", shares=None if self.soft_bound else "pruned"
        )

    @property
    def decides_alone(self) -> tuple[str, ...]:
        """Decide alone what is pruned if there is a soft bound, as pruning takes back what has grown before."""
        return ("prune",) if self.soft_bound else ()

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Start at random within each tensor.

        Returns:
            As many positions in each tensor as the start distribution says; with 'er' and 'erk' small tensors may be
            full.
        """
        return random_topology(layout, distribution(self.start)(layout, sparsity), random, arrays)

    @hookimpl
    def initial_strategy_state(self, topology: Topology) -> Budget:
        """Note the numbers of weights at the start."""
        return Budget(topology.counts.copy())

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule until the end of growth, when a soft bound needs a last update."""
        end = self._end(clock)
        return (clock.step < end and self.schedule(clock)) or (self.soft_bound and clock.step == end)

    @hookimpl
    def prune(
        self, topology: Topology, values: Array, weight_gradient: Array, clock: Clock, strategy_state: Budget
    ) -> Array:
        """In each tensor, drop the weights with the smallest |w| + λ|g|.

        Returns:
            bool, (N,), True for the survivors. With a soft bound as many as at the start survive; otherwise the
            fraction is dropped, rounded down.
        """
        dropped = topology.counts - strategy_state.counts if self.soft_bound else self._grown(topology, clock)
        return topology.all_but(
            smallest_of_each(topology, self._scores(values, weight_gradient), np.maximum(dropped, 0))
        )

    @hookimpl
    def target_size(
        self, topology: Topology, survivors: Counts, room: Counts, clock: Clock, strategy_state: Budget
    ) -> int:
        """Return as many weights as before, or with a soft bound those of the start and those that grow in addition.

        Returns:
            The number of weights after the update. Those that a frozen tensor has had in addition to the start count in
            what grows elsewhere.
        """
        if not self.soft_bound:
            return topology.size
        kept = np.minimum(survivors, strategy_state.counts)  # a full network is to be pruned again
        return int((kept + self._added(room, clock, strategy_state)).sum())

    @hookimpl
    def allocate(self, total: int, pruned: Counts, room: Counts, clock: Clock, strategy_state: Budget) -> Counts:
        """Grow as many weights in each tensor as it has lost, or with a soft bound the fraction of those at the start.

        Returns:
            int64, one number a tensor; ``total`` together.
        """
        return shares(total, self._added(room, clock, strategy_state) if self.soft_bound else pruned, room)

    def _scores(self, values: Array, weight_gradient: Array) -> Array:
        # without λ the ranking is exactly that by |w|, whatever the gradients are
        return abs(values) + self.gradient_weight * abs(weight_gradient) if self.gradient_weight else values

    def _grown(self, topology: Topology, clock: Clock) -> Counts:
        """Return how many weights of each tensor move without a soft bound."""
        return np.minimum(fraction_of(self._fraction(clock), topology.counts), topology.room)

    def _added(self, room: Counts, clock: Clock, strategy_state: Budget) -> Counts:
        """Return how many weights grow in each tensor with a soft bound."""
        return np.minimum(fraction_of(self._fraction(clock), strategy_state.counts), room)

    def _fraction(self, clock: Clock) -> float:
        return self.mutation(clock) if clock.step < self._end(clock) else 0.0

    def _end(self, clock: Clock) -> int:
        """Return the step from which on nothing grows: as that of gradual pruning, which another step follows."""
        return CubicPruning(0.0, self.until).end(clock)
