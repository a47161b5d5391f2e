"""SRigL, structured RigL (Lasby et al. 2024): RigL with N weights among each M positions, or a constant fan-in."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Cosine,
    Counts,
    Declares,
    Every,
    Gradient,
    InputError,
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
    count_in_groups,
    counting_of,
    distribution,
    first_free,
    first_of_each_group,
    fraction_of,
    free_by_score,
    free_ranks,
    group_counts,
    group_sizes,
    groups_of,
    hookimpl,
    random_in_groups,
    smallest,
    smallest_of_each,
    smallest_of_each_group,
)
from sparsecore_strategies.srigl_ablation import Neurons, first_in_groups


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

    What is dropped may grow again at once, and then keeps its value and its momentum, as in the authors' code; the
    run's ``regrow_pruned`` overrides that. With False or True, of a group no more is dropped than it has had free
    positions: then the next smallest of other groups go.

    With ``ablate``, the paper's γ, an update first ablates neurons, that is outputs: those with fewer *salient*
    positions than γ times the fan-in that all neurons would have. Salient are the largest weights, all but the fraction
    f, and as many positions with the largest |dense gradient|, active or not. An ablated neuron loses all its weights,
    which are the first that are dropped, and the others share them, so that the tensor keeps its number: each neuron
    that is left gets the same fan-in, the first ones one weight more where it does not divide the number. The next
    update decides anew, so that a neuron without weights comes back if enough of its gradients are large. The paper has
    γ = 0.3, and uses ablation above a sparsity of 0.9. So it is in the authors' code, where the fan-in is rounded down
    and weights above the new fan-in go in no particular order, here the smallest first. The authors except the last
    layer, whose outputs are the classes: name it in ``intact`` where it is sparse.

    Attributes:
        group: M, which divides the fan-in of every sparse tensor; None for the whole fan-in.
        drop_fraction: f, RigL's.
        start: the start distribution: 'erk' (Erdős–Rényi with kernels, the paper's), 'er' or 'uniform'.
        schedule: when updates are due.
        ablate: γ, for which ``group`` must be None; 0 ablates no neuron.
        intact: a glob on the names of tensors whose neurons are never ablated, such as 'fc.weight'; None for none.
    """

    decides_alone: ClassVar = ("initial_topology", "revise_pruning", "target_size", "allocate", "grow")
    outputs_first: ClassVar = True
    tuning: ClassVar = {
        "drop_fraction.start": (0.1, 0.6),
        "schedule": [{"times": times, "until": 0.75} for times in (25, 100, 400)],
    }

    group: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    drop_fraction: Schedule = attrs.field(
        default=Cosine(0.3, 0.0, until=0.75), converter=as_schedule, validator=check_fraction
    )
    start: StartDistribution = attrs.field(default="erk", validator=check_start_distribution)
    schedule: Every = Every(steps=100, until=0.75)
    ablate: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.le(1)])
    intact: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.ablate and self.group is not None:
            raise InputError(
                f"srigl ablates neurons with a constant fan-in, for which group is None; given ablate = {self.ablate} "
                f"and group = {self.group}"
            )

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
    def prune(self, topology: Topology, values: Array, gradient: Gradient, keeps_regrown: bool, clock: Clock) -> Array:
        """In each tensor, drop the fraction f with the smallest |w|.

        Unless what grows again keeps its value, only what a group has room to replace is dropped. With ``ablate``, also
        drop all weights of neurons of which too few are salient.

        Returns:
            bool, (N,), True for the survivors.
        """
        sizes = group_sizes(topology.layout, self.group)
        counts = fraction_of(self.drop_fraction(clock), topology.counts)
        arrays, names = topology.arrays, topology.layout.names
        if self.ablate:
            pairs = zip(self._neurons(topology, values, gradient, clock), map(int, counts), strict=True)
            slots = [one.dropped(values, left, count, replaceable=not keeps_regrown) for (one, left), count in pairs]
            return topology.all_but(arrays.concatenate(slots))
        if keeps_regrown:
            return topology.all_but(smallest_of_each(topology, values, counts))
        full = _fuller_than_half(topology, sizes)
        dropped = [
            _smallest_replaceable(topology, name, values, size, int(count))
            if is_full
            else smallest(abs(values[topology.slots(name)]), int(count), arrays) + topology.slots(name).start
            for name, size, count, is_full in zip(names, sizes, counts, full, strict=True)
        ]
        return topology.all_but(arrays.concatenate(dropped))

    keep_regrown = all_keep_values
    allocate = as_many_as_lost

    @hookimpl
    def grow(
        self,
        occupied: Topology,
        counts: Counts,
        topology: Topology,
        values: Array,
        kept: Topology,
        gradient: Gradient,
        clock: Clock,
    ) -> Array:
        """Grow in each group as many as it lost, where the dense gradient is largest in absolute value.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i; where strategies above have pruned or shared out
            without regard to groups, also positions of groups that have lost nothing.
        """
        layout, arrays = occupied.layout, occupied.arrays
        lost, sizes = _without(topology, kept), group_sizes(layout, self.group)
        if self.ablate:
            found = {one.name: left for one, left in self._neurons(topology, values, gradient, clock)}
            fan_ins = dict(zip(layout.names, sizes, strict=True))
            grown = dict(zip(layout.names, map(int, counts), strict=True))
            return first_free(
                occupied,
                counts,
                lambda name: Neurons.of(kept, name, fan_ins[name]).fillers(
                    free_by_score(occupied, name, gradient), found[name], grown[name]
                ),
            )
        positions = []
        for name, size, offset, count in zip(layout.names, sizes, layout.offsets, counts, strict=False):
            if count:
                own = _grown(occupied, lost, name, size, int(count), gradient)
                positions.append(arrays.cast(own + offset, layout.position_dtype))
        return arrays.concatenate([occupied.positions[:0], *positions])

    def _neurons(
        self, topology: Topology, values: Array, gradient: Gradient, clock: Clock
    ) -> list[tuple[Neurons, NDArray[np.bool_]]]:
        """Return the neurons of each tensor, and which of them an update does not ablate."""
        sizes = group_sizes(topology.layout, self.group)
        counts = fraction_of(self.drop_fraction(clock), topology.counts)
        neurons = [Neurons.of(topology, name, size) for name, size in zip(topology.layout.names, sizes, strict=True)]
        return [
            (
                one,
                np.ones(len(one.counts), np.bool_)
                if self.intact is not None and fnmatchcase(one.name, self.intact)
                else one.left(values, gradient, int(count), self.ablate),
            )
            for one, count in zip(neurons, counts, strict=True)
        ]

    def _groups(self, layout: Layout) -> Counts:
        """Return how many groups each tensor has."""
        return group_counts(layout, group_sizes(layout, self.group))


def _fuller_than_half(topology: Topology, sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Return for each tensor whether one of its groups has more weights than free positions."""
    arrays, counting = topology.arrays, counting_of(topology.arrays)
    full = [
        counting.count(2 * _in_each_group(topology, name, size) > size)
        for name, size in zip(topology.layout.names, sizes, strict=True)
    ]
    return arrays.to_numpy(arrays.concatenate(full)) > 0


def _in_each_group(topology: Topology, name: str, size: int) -> Array:
    """Return how many weights each group of a tensor has, int64."""
    layout, arrays = topology.layout, topology.arrays
    starts = arrays.arange(layout.sizes[layout.index(name)] // size + 1, np.int64)
    ends = arrays.searchsorted(arrays.cast(groups_of(topology, name, size), np.int64), starts, "left")
    return ends[1:] - ends[:-1]


def _smallest_replaceable(topology: Topology, name: str, values: Array, size: int, count: int) -> Array:
    """Return the slots of the smallest |w| of a tensor, of each group at most as many as it has free positions."""
    arrays, slots = topology.arrays, topology.slots(name)
    groups = groups_of(topology, name, size)
    order = arrays.argsort(abs(values[slots]))
    room = size - count_in_groups(groups, groups, arrays)
    may_drop = first_of_each_group(arrays.take(groups, order), arrays.take(room, order), arrays)
    first: int = slots.start
    return arrays.take(order, arrays.nonzero(may_drop)[:count]) + first


def _grown(occupied: Topology, lost: Topology, name: str, size: int, count: int, gradient: Gradient) -> Array:
    """Return the positions that grow in a tensor, ascending, counted from its first.

    Each group grows as many as it has lost. Where strategies above prune or share out without regard to groups, these
    go first, in the order of the gradient, and others follow.
    """
    arrays = occupied.arrays
    # on a device a sort takes less than to wait for numbers
    if getattr(arrays, "counting", None) is None and lost.slots(name).stop - lost.slots(name).start == count:
        wanted = _in_each_group(lost, name, size)
        crowded = arrays.to_numpy(wanted > size - _in_each_group(occupied, name, size))
        if not crowded.any():
            return smallest_of_each_group(free_ranks(occupied, name, gradient(name)), size, wanted, arrays)
    best = free_by_score(occupied, name, gradient)
    ordered = _replacements_first(best, groups_of(lost, name, size), size, arrays)
    return arrays.sort(ordered[:count])


def _without(topology: Topology, kept: Topology) -> Topology:
    """Return the weights that are not kept."""
    return topology.subset(topology.all_but(topology.arrays.searchsorted(topology.positions, kept.positions, "left")))


def _replacements_first(free: Array, lost: Array, size: int, arrays: Arrays) -> Array:
    """Move the first free positions of each group, as many as it has ``lost``, before all others."""
    return first_in_groups(free, count_in_groups(lost, free // size, arrays), size, arrays)
