"""GSE, guided stochastic exploration (Heddes et al. 2024): grow the best of a random subset of the free positions."""

from typing import ClassVar, Literal

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
    Layout,
    Randomness,
    Schedule,
    StartDistribution,
    Topology,
    as_schedule,
    as_written,
    check_fraction,
    check_start_distribution,
    constant,
    counting_of,
    distribution,
    fraction_of,
    hookimpl,
    random_free_positions,
    random_topology,
    shares,
    smallest,
    smallest_of_all,
    smallest_of_each,
)


@attrs.frozen(eq=False)
class GuidedExploration:
    """Grow where |gradient| is largest among γ·N random free positions; drop the smallest |w| (Heddes et al. 2024).

    The defaults are those of the authors' code: an Erdős–Rényi start, a fraction f = 0.2/2·(1 + cos(π·t/T_end)) of all
    weights that moves every 1,000 steps until T_end, 120 of 200 epochs, and as many candidates as weights. What grows
    starts at zero.

    Gradients are those of the latest step at the active weights and at the candidates, so that time and memory grow
    with the weights and not with the positions. The candidates are drawn uniformly, before that step. The paper's other
    distributions, GraBo and GraEst, are left out: they are made of sums over a layer's inputs and output gradients in
    the same batch, which are not known by then. The authors' code draws with replacement and drops the active positions
    from the sample; here the candidates are γ·N distinct free positions.

    Attributes:
        drop_fraction: f.
        subset: γ: each tensor has this many candidates for each of its weights, rounded down, but not more than free
            positions. An update never moves more weights than there are candidates; where a strategy above it makes
            the network denser, what is missing grows at random.
        scope: whether weights compete in the whole 'network' (as in the authors' code), so that they move between
            tensors, or within each 'tensor'.
        start: the start distribution: 'er' (Erdős–Rényi, the authors'), 'erk' or 'uniform'.
        schedule: when updates are due.
    """

    tuning: ClassVar = {
        "drop_fraction.start": (0.1, 0.6),
        "subset": [0.5, 1.0, 2.0],
        "schedule": [{"times": times, "until": 0.6} for times in (25, 100, 400)],
    }

    drop_fraction: Schedule = attrs.field(
        default=Cosine(0.2, 0.0, until=0.6), converter=as_schedule, validator=check_fraction
    )
    subset: float = attrs.field(default=1.0, validator=[attrs.validators.gt(0), attrs.validators.le(100)])
    scope: Literal["network", "tensor"] = attrs.field(
        default="network", validator=attrs.validators.in_(("network", "tensor"))
    )
    start: StartDistribution = attrs.field(default="er", validator=check_start_distribution)
    schedule: Every = Every(steps=1000, until=0.6)

    @property
    def declares(self) -> Declares:
        """Declare that the smallest weights go first, of the network or of each tensor, and growth at candidates."""
        within = self.scope == "tensor"
        return Declares(smallest_first=self.scope, shares="pruned" if within else None, grows_at="candidates")

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
    def candidates(self, topology: Topology, random: Randomness) -> Array:
        """Draw free positions of each tensor, all equally likely.

        Returns:
            min(⌊γ·N_i⌋, room_i) distinct positions of each tensor i, ascending.
        """
        wanted = [int(as_written(self.subset) * int(count)) for count in topology.counts]
        return random_free_positions(topology, np.minimum(wanted, topology.room), random)

    @hookimpl
    def prune(self, topology: Topology, values: Array, candidates: Topology, clock: Clock) -> Array:
        """Drop the fraction f with the smallest |w|, of the network or of each tensor.

        Returns:
            bool, (N,), True for the survivors; the number dropped is rounded down, and is at most that of candidates.
        """
        fraction = self.drop_fraction(clock)
        if self.scope == "tensor":
            dropped = np.minimum(fraction_of(fraction, topology.counts), candidates.counts)
            return topology.all_but(smallest_of_each(topology, values, dropped))
        of_all = int(fraction_of(fraction, topology.counts.sum(keepdims=True))[0])
        return topology.all_but(smallest_of_all(topology, values, min(of_all, candidates.size)))

    @hookimpl
    def allocate(
        self, total: int, pruned: Counts, candidates: Topology, candidate_gradient: Array, room: Counts
    ) -> Counts:
        """Count the best candidates of each tensor among those of all, or grow as many as each tensor has lost.

        Returns:
            int64, one number a tensor; ``total`` together. More than there are candidates are shared out by the room
            that is left.
        """
        more = total - candidates.size
        if more > 0:
            left = constant(np.maximum(0, room - candidates.counts))
            return constant(candidates.counts + shares(more, left, left))
        if self.scope == "tensor":
            return shares(total, pruned, np.minimum(room, candidates.counts))
        best = _largest(candidate_gradient, total, candidates)
        chosen = candidates.arrays.put(~candidates.all(), best, True)
        return constant(counting_of(candidates.arrays).count_each(chosen, candidates.bounds))

    @hookimpl
    def grow(
        self, occupied: Topology, counts: Counts, candidates: Topology, candidate_gradient: Array, random: Randomness
    ) -> Array:
        """Grow at the candidates of each tensor with the largest |gradient|, of equal ones the lowest.

        Returns:
            Positions of candidates, ascending, ``counts[i]`` of tensor i. Where these are more than its candidates, as
            where another strategy makes the network denser, all of them and others at random.
        """
        arrays = candidates.arrays
        bounds = zip(candidates.bounds[:-1], candidates.bounds[1:], counts, strict=True)
        best = [
            _largest(candidate_gradient[first:last], int(count), candidates) + first for first, last, count in bounds
        ]
        grown = arrays.take(candidates.positions, arrays.concatenate(best))
        more = np.maximum(0, counts - candidates.counts)
        if not more.any():
            return grown
        taken = occupied.at(arrays.sort(arrays.concatenate([occupied.positions, grown])))
        return arrays.sort(arrays.concatenate([grown, random_free_positions(taken, more, random)]))


def _largest(gradients: Array, count: int, candidates: Topology) -> Array:
    """Return the indices of the largest |gradient|, ascending; NaN comes last, of equal ones the first are taken."""
    return smallest(-abs(gradients), count, candidates.arrays)
