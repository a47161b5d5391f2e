"""GraNet (Liu et al. 2021): gradual magnitude pruning, and after each pruning a part of the rest regenerates."""

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
    Gradient,
    Layout,
    PruningTargets,
    Randomness,
    Schedule,
    StartDistribution,
    Topology,
    as_schedule,
    check_cubic,
    check_fraction,
    check_initial_sparsity,
    check_start_distribution,
    counting_of,
    distribution,
    fraction_rounded_up,
    hookimpl,
    largest_free,
    random_topology,
    shares,
    smallest_of_all,
    smallest_of_each,
    uniform,
)


@attrs.frozen(eq=False)
class GradualRegeneration:
    """Prune the smallest of all along a cubic, then drop a fraction of each tensor and regrow it (Liu et al. 2021).

    The cubic is that of Zhu & Gupta, to the run's sparsity, in numbers of weights the uniform distribution's budget;
    the largest weight of each tensor always stays. Then each tensor drops a fraction of what is left, the smallest
    |w|, and as many grow there where the dense gradient is largest, from zero. Regeneration goes on when the pruning
    has ended.

    What is pruned or dropped may grow again at once, as in the authors' code. What was dropped to regenerate then keeps
    its value and its momentum; what the cubic has pruned starts from zero. The run's ``regrow_pruned`` overrides that:
    with False or True, a tensor regenerates no more than it has had free positions before the update, so that the first
    update of a dense start only prunes.

    The defaults are those of the authors' commands for CIFAR: 1,000 steps from update to update, and pruning until
    epoch 110 of 160; runs of few steps need a shorter period. Their code prunes one weight more than its schedule says
    and stops before the last step of the cubic; here the numbers are exact, and the run ends at its sparsity.

    Attributes:
        drop_fraction: of each tensor's weights, after the pruning; along a cosine from 0.5 to 0.005 at the end of the
            run. Numbers are rounded up.
        initial_sparsity: 0 is a dense start; the paper also has 0.5.
        start: the distribution of a start that is not dense: 'erk' (the paper's), 'er' or 'uniform'.
        begin: the fraction of the run at which pruning begins.
        until: the fraction of the run at which pruning ends.
        schedule: when updates are due; one more is at the end of the pruning.
    """

    # the pruning is of the network; what each tensor drops then is not
    declares: ClassVar = Declares(smallest_first="tensor")
    decides_alone: ClassVar = ("initial_topology", "prune")
    tuning: ClassVar = {"drop_fraction.start": (0.1, 0.6), "until": (0.4, 0.9)}

    drop_fraction: Schedule = attrs.field(default=Cosine(0.5, 0.005), converter=as_schedule, validator=check_fraction)
    initial_sparsity: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    start: StartDistribution = attrs.field(default="erk", validator=check_start_distribution)
    begin: float = 0.0
    until: float = attrs.field(default=0.6875, validator=check_cubic)
    schedule: Every = Every(steps=1000)

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Start with random positions, as many in each tensor as the start distribution says at the initial sparsity.

        Raises:
            InputError: the initial sparsity is above the run's.
        """
        check_initial_sparsity(self.initial_sparsity, sparsity)
        return random_topology(layout, distribution(self.start)(layout, self.initial_sparsity), random, arrays)

    @hookimpl
    def initial_strategy_state(self, topology: Topology, sparsity: float) -> PruningTargets:
        """Note the numbers of all weights now and, by the uniform distribution at the run's sparsity, at the end.

        Returns:
            Both int64, (1,).
        """
        first = topology.counts.sum(keepdims=True)
        return PruningTargets(first, np.minimum(first, uniform(topology.layout, sparsity).sum()))

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule once pruning has begun, and return True at its end."""
        cubic = CubicPruning(self.begin, self.until)
        return clock.step == cubic.end(clock) or (cubic.has_begun(clock) and self.schedule(clock))

    @hookimpl
    def target_size(self, topology: Topology, clock: Clock, strategy_state: PruningTargets) -> int:
        """Return as many as the cubic leaves; regeneration changes no number.

        Returns:
            The number of weights after the update, at most that before.
        """
        remaining = CubicPruning(self.begin, self.until).remaining(clock)
        return min(topology.size, int(strategy_state.counts(remaining).sum()))

    @hookimpl
    def prune(
        self, topology: Topology, values: Array, keeps_regrown: bool, clock: Clock, strategy_state: PruningTargets
    ) -> Array:
        """Keep the largest |w| of the network; of these, in each tensor, drop the fraction with the smallest.

        Returns:
            bool, (N,), False for what is pruned for good and for what is dropped to regenerate.
        """
        arrays, kept = topology.arrays, self._largest(topology, values, clock, strategy_state)
        left = topology.subset(kept)
        slots = counting_of(arrays).nonzero(kept, left.size)
        counts = self._dropped(topology, left, keeps_regrown, clock)
        dropped = smallest_of_each(left, arrays.take(values, slots), counts)
        return arrays.put(kept, arrays.take(slots, dropped), False)

    @hookimpl
    def keep_regrown(self, topology: Topology, values: Array, clock: Clock, strategy_state: PruningTargets) -> Array:
        """Return True for what the pruning leaves, so that it keeps value and momentum if it regenerates."""
        return self._largest(topology, values, clock, strategy_state)

    @hookimpl
    def allocate(
        self,
        total: int,
        room: Counts,
        topology: Topology,
        values: Array,
        keeps_regrown: bool,
        clock: Clock,
        strategy_state: PruningTargets,
    ) -> Counts:
        """Grow as many weights in each tensor as it has dropped after the pruning.

        Returns:
            int64, one number a tensor; ``total`` together.
        """
        left = topology.subset(self._largest(topology, values, clock, strategy_state))
        return shares(total, self._dropped(topology, left, keeps_regrown, clock), room)

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, gradient: Gradient) -> Array:
        """Grow where the dense gradient of the latest step is largest in absolute value.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i.
        """
        return largest_free(occupied, counts, gradient)

    def _largest(self, topology: Topology, values: Array, clock: Clock, strategy_state: PruningTargets) -> Array:
        """Return which weights the pruning leaves, one bool a weight."""
        excess = topology.size - self.target_size(topology, clock, strategy_state)
        return topology.all_but(smallest_of_all(topology, values, excess))

    def _dropped(self, before: Topology, left: Topology, keeps_regrown: bool, clock: Clock) -> Counts:
        """Return how many weights each tensor drops after the pruning, to regenerate."""
        dropped: Counts = fraction_rounded_up(self.drop_fraction(clock), left.counts)
        return dropped if keeps_regrown else np.minimum(dropped, before.room)
