"""SRigL, structured RigL (Lasby et al. 2024): RigL with N weights among each M positions, or a constant fan-in."""

from typing import Literal

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
    Topology,
    as_schedule,
    check_fraction,
    count_in_groups,
    counting_of,
    distribution,
    first_free,
    first_of_each_group,
    fraction_of,
    free_by_score,
    group_counts,
    group_sizes,
    groups_of,
    hookimpl,
    random_in_groups,
    shares,
)


@attrs.frozen(eq=False)
class StructuredRigL:
    """RigL with as many weights in every group of consecutive positions of a tensor (Lasby et al. 2024).

    The fan-in of each output (the positions after the first side, row-major) is divided into groups of M, and every
    group has N weights from the first step to the last: N:M sparsity, and constant fan-in where M is the whole fan-in.
    Of the c weights that the start distribution gives to a tensor of g groups, each group gets N = ⌊c/g⌋, at least one.
    So a run has less than one weight a group fewer than its sparsity says, and more only where N would be 0; with
    'uniform', N = ⌊(1-s)·M⌋. A given topology keeps in each group the number that it has there.

    An update is RigL's, in place of the optimizer's step: the fraction f of each tensor's weights is dropped by |w|,
    wherever they are, and each group grows by |dense gradient| what it has lost, from zero.

    The paper also ablates neurons, whose weights then go to the fan-in of the others; this is the arm of it that does
    not. There what was just dropped may grow again at once; here the run's ``regrow_pruned`` says whether, and of a
    group no more is dropped than it has had free positions: then the next smallest of other groups go.

    Attributes:
        group: M, which divides the fan-in of every sparse tensor; None for the whole fan-in.
        drop_fraction: f, RigL's.
        start: the start distribution: 'erk' (Erdős–Rényi with kernels, the paper's), 'er' or 'uniform'.
        schedule: when updates are due.
    """

    group: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    drop_fraction: Schedule = attrs.field(
        default=Cosine(0.3, 0.0, until=0.75), converter=as_schedule, validator=check_fraction
    )
    start: Literal["erk", "er", "uniform"] = attrs.field(
        default="erk", validator=attrs.validators.in_(("erk", "er", "uniform"))
    )
    schedule: Every = Every(steps=100, until=0.75)

    @property
    def declares(self) -> Declares:
        """Declare growth where weights were lost, and a start with as many weights in each group of a tensor."""
        return Declares(shares="pruned", start_multiples=self._groups)

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Start with random positions, N of each group.

        Raises:
            InputError: M does not divide the fan-in of a tensor.
        """
        of_each = distribution(self.start)(layout, sparsity) // self._groups(layout)
        return random_in_groups(layout, group_sizes(layout, self.group), np.maximum(1, of_each), random, arrays)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def replaces_step(self) -> bool:
        """Return True: an update replaces the optimizer's step."""
        return True

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock) -> Array:
        """In each tensor, drop the fraction f with the smallest |w| that their groups have room to replace.

        Returns:
            bool, (N,), True for the survivors.
        """
        sizes = group_sizes(topology.layout, self.group)
        counts = fraction_of(self.drop_fraction(clock), topology.counts)
        arrays, counting, names = topology.arrays, counting_of(topology.arrays), topology.layout.names
        ranked = [_by_magnitude(topology, name, values, size) for name, size in zip(names, sizes, strict=True)]
        replaceable = counting.count_each(arrays.concatenate([may_drop for _, may_drop in ranked]), topology.bounds)
        dropped = [
            arrays.take(slots, counting.nonzero(may_drop, int(most))[: int(count)])
            for (slots, may_drop), most, count in zip(ranked, replaceable, counts, strict=True)
        ]
        return topology.all_but(arrays.concatenate(dropped))

    @hookimpl
    def allocate(self, total: int, pruned: Counts, room: Counts) -> Counts:
        """Grow as many weights in each tensor as it has lost.

        Returns:
            int64, one number a tensor; ``total`` together.
        """
        return shares(total, pruned, room)

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, topology: Topology, kept: Topology, gradient: Gradient) -> Array:
        """Grow in each group as many as it lost, where the dense gradient is largest in absolute value.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i; where strategies above have pruned or shared out
            without regard to groups, also positions of groups that have lost nothing.
        """
        sizes = dict(zip(occupied.layout.names, group_sizes(occupied.layout, self.group), strict=True))
        lost = _without(topology, kept)

        def ordered(name: str) -> Array:
            best = free_by_score(occupied, name, gradient)
            return _replacements_first(best, groups_of(lost, name, sizes[name]), sizes[name], occupied.arrays)

        return first_free(occupied, counts, ordered)

    def _groups(self, layout: Layout) -> Counts:
        """Return how many groups each tensor has."""
        return group_counts(layout, group_sizes(layout, self.group))


def _by_magnitude(topology: Topology, name: str, values: Array, size: int) -> tuple[Array, Array]:
    """Return the slots of a tensor's weights, the smallest |w| first, and whether each may be dropped.

    Of each group the smallest may, as many as it has free positions.
    """
    arrays, slots = topology.arrays, topology.slots(name)
    groups = groups_of(topology, name, size)
    order = arrays.argsort(abs(values[slots]))
    room = size - count_in_groups(groups, groups, arrays)
    return order + slots.start, first_of_each_group(arrays.take(groups, order), arrays.take(room, order), arrays)


def _without(topology: Topology, kept: Topology) -> Topology:
    """Return the weights that are not kept."""
    return topology.subset(topology.all_but(topology.arrays.searchsorted(topology.positions, kept.positions, "left")))


def _replacements_first(free: Array, lost: Array, size: int, arrays: Arrays) -> Array:
    """Move the first free positions of each group, as many as it has ``lost``, before all others."""
    groups = free // size
    replaces = first_of_each_group(groups, count_in_groups(lost, groups, arrays), arrays)
    # the others are needed where strategies above prune or share out without regard to groups
    return arrays.take(free, arrays.argsort(arrays.cast(~replaces, np.int8)))
