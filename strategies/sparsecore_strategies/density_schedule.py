"""A piece to stack on other strategies: a number of weights that changes over the run, towards sparser or denser."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import ClassVar, Literal

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Clock,
    Counts,
    CubicPruning,
    Every,
    PruningTargets,
    Topology,
    check_cubic,
    counting_of,
    hookimpl,
    smallest,
    smallest_of_all,
    smallest_of_each,
    uniform,
)


@attrs.frozen(eq=False)
class DensitySchedule:
    """Change the number of weights from that of the start to that of another sparsity; the strategies below move them.

    Each update that is due follows the schedule. Towards sparser, the strategy below prunes as it does, and where more
    would be left than there are to be, the smallest |w| of what it keeps are pruned as well; fewer grow than were
    pruned. Towards denser, more grow than were pruned, where the strategies below say; what was just pruned cannot grow
    again, so that close to dense the largest of the weights that are to be pruned are kept.

    Attributes:
        sparsity: at the end, in [0, 1); 0 is dense. In numbers of weights it is the uniform distribution's.
        shape: 'cubic', n = n_f + (n_i - n_f)·(1 - p)³ with the share p of the time between begin and until (Zhu & Gupta
            2017), or 'linear', n = n_f + (n_i - n_f)·(1 - p).
        begin: when the change begins, as a fraction of the run.
        until: when it ends, as a fraction of the run; an update is due here, whatever the strategies below say.
        schedule: when updates are due between these two, besides those of the strategies below: for ``static``, which
            has none.
        scope: whether the smallest weights of each 'tensor' are pruned, in proportion to what is left of it, or of the
            whole 'network'. Of a tensor one weight always stays.
    """

    is_piece: ClassVar = True

    sparsity: float = attrs.field(default=0.95, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    shape: Literal["cubic", "linear"] = attrs.field(
        default="cubic", validator=attrs.validators.in_(("cubic", "linear"))
    )
    begin: float = 0.25
    until: float = attrs.field(default=0.75, validator=check_cubic)
    schedule: Every | None = None
    scope: Literal["tensor", "network"] = attrs.field(
        default="tensor", validator=attrs.validators.in_(("tensor", "network"))
    )

    @hookimpl
    def initial_strategy_state(self, topology: Topology) -> PruningTargets:
        """Remember the numbers of weights at the start and at the end.

        Returns:
            Both int64, (1,): of all tensors together.
        """
        last = uniform(topology.layout, self.sparsity).sum(keepdims=True)
        return PruningTargets(topology.counts.sum(keepdims=True), last)

    @hookimpl
    def update_due(self, clock: Clock) -> bool | None:
        """Return True at the end, and on the schedule before it; the strategies below decide on other updates."""
        times = self._times()
        end = times.end(clock)
        is_own = self.schedule is not None and times.has_begun(clock) and clock.step < end and self.schedule(clock)
        return True if clock.step == end or is_own else None

    @hookimpl
    def revise_pruning(
        self, topology: Topology, values: Array, survives: Array, clock: Clock, strategy_state: PruningTargets
    ) -> Array:
        """Prune more of the smallest weights where too many are left, and keep some where too few could grow.

        Returns:
            bool, (N,), True for the survivors.
        """
        target = self._size(clock, strategy_state)
        kept = topology.subset(survives)
        surplus = kept.size - target
        if surplus > 0:
            return self._without_smallest(topology, values, survives, kept, surplus)
        room = int(topology.room.sum())
        return _with_largest(topology, values, survives, min(topology.size, target - room) - kept.size)

    @hookimpl
    def target_size(self, topology: Topology, survivors: Counts, clock: Clock, strategy_state: PruningTargets) -> int:
        """Return the number of weights on the schedule.

        Returns:
            At least the survivors: frozen tensors, and the last weight of each tensor, stay whatever the schedule.
        """
        size = self._size(clock, strategy_state)
        if int(survivors.sum()) == topology.layout.size:  # the question before pruning: whether it is to stay full
            return max(size, len(topology.layout))
        return min(topology.layout.size, max(int(survivors.sum()), size))

    @hookimpl
    def metrics(self, clock: Clock, strategy_state: PruningTargets) -> dict[str, float]:
        """Report the number of weights on the schedule."""
        return {"target": float(self._size(clock, strategy_state))}

    def _size(self, clock: Clock, targets: PruningTargets) -> int:
        return int(targets.counts(_SHAPES[self.shape](self._times(), clock)).sum())

    def _times(self) -> CubicPruning:
        return CubicPruning(self.begin, self.until)

    def _without_smallest(
        self, topology: Topology, values: Array, survives: Array, kept: Topology, surplus: int
    ) -> Array:
        """Return the survivors without the smallest weights of what is kept, as many as are too many."""
        arrays = topology.arrays
        slots = counting_of(arrays).nonzero(survives, kept.size)
        most = kept.size - int((kept.counts > 0).sum())
        smallest_kept = _SCOPES[self.scope](kept, arrays.take(values, slots), min(surplus, most))
        return arrays.put(survives, arrays.take(slots, smallest_kept), False)


def _with_largest(topology: Topology, values: Array, survives: Array, count: int) -> Array:
    """Return the survivors with the largest of the pruned weights, as many as are to be kept."""
    if count <= 0:
        return survives
    arrays = topology.arrays
    pruned = arrays.nonzero(~survives)
    gone = smallest(abs(arrays.take(values, pruned)), len(pruned) - count, arrays)
    return topology.all_but(arrays.take(pruned, gone))


def _of_each(kept: Topology, values: Array, count: int) -> Array:
    """Return the slots of the smallest weights, of each tensor in proportion to its weights."""
    arrays, size = kept.arrays, max(1, kept.size)
    whole = [min(int(own) * count // size, max(0, int(own) - 1)) for own in kept.counts]
    first = smallest_of_each(kept, values, np.array(whole, np.int64))
    # what rounding leaves goes by the values alone, so that the order of the tensors does not matter
    mask = kept.all_but(first)
    rest = kept.subset(mask)
    slots = counting_of(arrays).nonzero(mask, rest.size)
    others = smallest_of_all(rest, arrays.take(values, slots), count - sum(whole))
    return arrays.sort(arrays.concatenate([first, arrays.take(slots, others)]))


_SCOPES: Mapping[str, Callable[[Topology, Array, int], Array]] = MappingProxyType(
    {"tensor": _of_each, "network": smallest_of_all}
)

_SHAPES: Mapping[str, Callable[[CubicPruning, Clock], Fraction]] = MappingProxyType(
    {"cubic": CubicPruning.remaining, "linear": CubicPruning.time_left}
)
