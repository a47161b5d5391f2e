"""Algorithm 1 of Mostafa & Wang (2018): reallocate non-zero parameters within and across parameter tensors.

Strategies decide the steps (prune, adjust, allocate, grow); the order, the bookkeeping and the exact number of
parameters (constant, except for strategies that set a target size) are the same for all. Time and memory grow with the
N active weights, never with the D dense positions.
"""

from typing import Any, Literal, Protocol, TypeVar

import attrs
import numpy as np

from sparsecore.engine.arrays import Array, Counts, Host, constant, counting_of, host_of, is_known_to_numpy
from sparsecore.engine.host_parts import Merging
from sparsecore.engine.state import StrategyStates
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError

Vector = TypeVar("Vector", bound=Array)

RegrowPruned = bool | Literal["keep"]
"""Whether positions may grow again in the update that pruned them.

False: no. True: yes, as any other weight that grows. 'keep': yes, and what grows again keeps its value and its
optimizer state, as if it had not been pruned.
"""


def check_regrow_pruned(given: object) -> RegrowPruned:
    """Return the setting, if it is one.

    Raises:
        InputError: it is neither False, True nor 'keep'.
    """
    if isinstance(given, bool | np.bool_):
        return bool(given)
    if isinstance(given, str) and given == "keep":
        return "keep"
    raise InputError(f"regrow_pruned is False, True or 'keep'; given {given!r}")


class Steps(Protocol):
    """The decisions of one reallocation, each already checked against the engine's promises."""

    def prune(self, topology: Topology, values: Array) -> Array:
        """Return which weights survive: one bool a weight. A tensor that would lose all keeps its largest.

        Args:
            topology: the N active positions.
            values: (N,), finite, read-only.

        Returns:
            N bools on the backend, True for the weights that stay.
        """
        ...

    def adjust(self, pruned: Counts, survivors: Counts) -> StrategyStates:
        """Return the strategy states for the next update (DPR's threshold).

        Args:
            pruned: k_i of each tensor.
            survivors: l_i of each tensor, at least 1 where the tensor had a weight.
        """
        ...

    def allocate(self, pruned: Counts, survivors: Counts, room: Counts) -> Counts:
        """Return how many weights grow in each tensor; as many together as were pruned, if the number is constant.

        Args:
            pruned: k_i of each tensor.
            survivors: l_i of each tensor.
            room: free positions of each tensor, without those just pruned unless they may grow again.

        Returns:
            int64, one number a tensor, at most ``room``.

        Raises:
            NoRoomError: more is to grow than there are free positions.
        """
        ...

    def grow(self, occupied: Topology, counts: Counts, kept: Topology) -> Array:
        """Choose the positions where weights grow.

        Args:
            occupied: where none may grow: the survivors, and what was just pruned unless it may grow again.
            counts: how many grow in each tensor.
            kept: the survivors.

        Returns:
            Positions outside ``occupied``, ascending, ``counts[i]`` in tensor i, in the layout's position dtype, on the
            backend.
        """
        ...

    def keep_regrown(self, topology: Topology, values: Array) -> Array:
        """Return which weights keep their value if they are pruned and grow again: one bool a weight.

        Args:
            topology: the N active positions before the update.
            values: (N,).
        """
        ...

    def initial_values(self, grown: Topology, values: Array) -> Array:
        """Return the values of the grown weights.

        Args:
            grown: the K positions that have grown.
            values: the N values before the update.

        Returns:
            (K,), finite, in the dtype of ``values``.
        """
        ...

    def initial_momentum(self, grown: Topology, values: Array) -> Array | None:
        """Return the optimizer's momentum of the grown weights, (K,), or None for zero.

        Args:
            grown: the K positions that have grown.
            values: the N values before the update.
        """
        ...


@attrs.frozen(eq=False)
class Reallocation:
    """The result of one reallocation.

    Attributes:
        before: the topology before it, of N weights.
        after: the topology after it.
        survives: for each slot before it whether the weight has survived, one bool each; so has a weight that was
            pruned, grew again and keeps its value.
        sources: for each slot after it the slot before; N where the weight has just grown.
        values: one value for each slot after it.
        pruned: weights pruned in each tensor.
        grown: weights grown in each tensor.
        momentum: the optimizer's momentum of each grown weight, in the order of their positions; None for zero.
        given_values: the values before it, of which surviving weights keep theirs; None where they have others.
    """

    before: Topology
    after: Topology
    survives: Array = attrs.field(repr=False)
    sources: Array = attrs.field(repr=False)
    values: Array = attrs.field(repr=False)
    pruned: Counts
    grown: Counts
    momentum: Array | None = attrs.field(default=None, repr=False)
    given_values: Array | None = attrs.field(default=None, repr=False)
    _grown_weights: Topology | None = attrs.field(default=None, repr=False)
    _grown_values: Array | None = attrs.field(default=None, repr=False)
    _merging: Merging | None = attrs.field(default=None, repr=False)

    @property
    def pruned_count(self) -> int:
        """K, the number of weights pruned; as many have grown, unless a strategy sets a target size."""
        return int(self.pruned.sum())

    def carry(self, slots: Vector) -> Vector:
        """Carry a vector with one entry a weight along: survivors keep their entry, grown weights get zero.

        Args:
            slots: N entries (or N rows) in the order of ``before.positions``, on the backend.

        Returns:
            The entries in the order of ``after.positions``; ``slots`` stays as it is.

        Raises:
            InputError: ``slots`` does not have one entry a weight.
        """
        if len(slots) != self.before.size:
            raise InputError(f"a carried vector has one entry a weight, {self.before.size}; given {len(slots)}")
        merging, is_plain = self._merging, type(slots) is type(self.before.positions)
        if merging is not None and is_plain and is_known_to_numpy(slots):
            carried: Any = merging.carry(self.before.arrays.to_numpy(slots))
        else:
            carried = _gather(slots, self.sources, self.before)
        return carried  # type: ignore[no-any-return]

    def carry_momentum(self, slots: Vector) -> Vector:
        """Carry the momentum of an optimizer along, as :meth:`carry` does, with :attr:`momentum` for grown weights.

        Args:
            slots: (N,), in the order of ``before.positions``, on the backend.
        """
        carried = self.carry(slots)
        return carried if self.momentum is None else _replaced(carried, self.grown_slots, self.momentum, self.before)

    @property
    def pruned_weights(self) -> Topology:
        """The weights that were pruned, as a topology."""
        return self.before.subset(~self.survives, self.pruned)

    @property
    def pruned_positions(self) -> Array:
        """The positions that were pruned, ascending."""
        return self.pruned_weights.positions

    @property
    def grown_slots(self) -> Array:
        """The slots, after the reallocation, of the weights that have just grown, ascending."""
        host = host_of(self.after.arrays)
        if self._merging is not None and host is not None:
            return self.after.arrays.readonly(host.share(self._merging.grown_slots))
        return counting_of(self.after.arrays).nonzero(self.sources == self.before.size, int(self.grown.sum()))

    @property
    def grown_positions(self) -> Array:
        """The positions where weights have grown, ascending."""
        return self.after.arrays.take(self.after.positions, self.grown_slots)

    @property
    def grown_weights(self) -> Topology:
        """The weights that have grown, as a topology."""
        return self.after.at(self.grown_positions, self.grown) if self._grown_weights is None else self._grown_weights

    @property
    def grown_values(self) -> Array:
        """The values of the weights that have grown, in the order of their positions."""
        own = self._grown_values
        return self.after.arrays.take(self.values, self.grown_slots) if own is None else own


def reallocate(
    topology: Topology, values: Array, steps: Steps, *, regrow_pruned: RegrowPruned = False
) -> tuple[Reallocation, StrategyStates]:
    """Reallocate by one pass of Algorithm 1, whose lines stand at the right.

    Args:
        topology: the active positions.
        values: their N values.
        steps: the decisions.
        regrow_pruned: whether what was just pruned may grow again in this pass, and then keeps its value.

    Returns:
        What was pruned and grown, in which weights that keep their value are neither; and the strategy states as
        ``steps.adjust`` returned them, by all numbers pruned.

    Raises:
        NoRoomError: more is to grow than there are free positions.
    """
    survives = steps.prune(topology, values)  #                             2  prune_by_threshold(W_i, H)
    survives, survivors = without_emptied(topology, values, survives)  #   3  l_i = survivors.counts
    pruned = constant(topology.counts - survivors.counts)  #                             k_i
    strategy_states = steps.adjust(pruned, survivors.counts)  #                  5, 6  adjust_pruning_threshold(H, K, δ)
    # not in the paper: without the first, what was just pruned could come straight back
    occupied = topology if not regrow_pruned else survivors
    counts = steps.allocate(pruned, survivors.counts, occupied.room)  #     8  l_i/L · K
    grown = topology.at(steps.grow(occupied, counts, survivors), counts)  # 8  grow_back(W_i, l_i/L · K)
    if regrow_pruned == "keep":  # nor this
        keeps = steps.keep_regrown(topology, values)
        survives, survivors, grown = _with_regrown(topology, survives, survivors, grown, keeps)
    initial = steps.initial_values(grown, values)  #                        8  zero-initialized
    merged = _merge(topology, survives, survivors, grown, initial, values)
    momentum = steps.initial_momentum(grown, values)
    readonly = None if momentum is None else topology.arrays.readonly(momentum)
    return attrs.evolve(merged, momentum=readonly), strategy_states


def without_emptied(topology: Topology, values: Array, survives: Array) -> tuple[Array, Topology]:
    """Return the survivors; a tensor that would lose all its weights keeps its largest (ties: the lowest position).

    Args:
        topology: the active positions.
        values: (N,).
        survives: one bool a weight.

    Returns:
        One bool a weight, and the weights that survive.
    """
    arrays, survivors = topology.arrays, topology.subset(survives)
    emptied = np.flatnonzero((survivors.counts == 0) & (topology.counts > 0))
    if not len(emptied):
        return survives, survivors
    for tensor in emptied:
        first, last = topology.bounds[tensor], topology.bounds[tensor + 1]
        largest = arrays.smallest_indices(-abs(values[first:last]), 1) + first
        survives = arrays.put(survives, largest, True)
    counts = survivors.counts.copy()
    counts[emptied] = 1
    kept = counting_of(arrays).nonzero(survives, int(counts.sum()))
    return survives, topology.at(arrays.take(topology.positions, kept), counts)


def _with_regrown(
    topology: Topology, survives: Array, survivors: Topology, grown: Topology, keeps: Array
) -> tuple[Array, Topology, Topology]:
    """Return mask and topology of the survivors with what has grown again and keeps its value, and the other grown."""
    arrays, counting = topology.arrays, counting_of(topology.arrays)
    slots = arrays.searchsorted(topology.positions, grown.positions, "left")
    # one entry behind the last slot, for positions above all active ones
    positions = arrays.concatenate([topology.positions, arrays.zeros_like(topology.positions, 1) - 1])
    kept = arrays.concatenate([keeps, arrays.zeros_like(keeps, 1)])
    is_kept = (arrays.take(positions, slots) == grown.positions) & arrays.take(kept, slots)
    counts = counting.count_each(is_kept, grown.bounds)  # the only time that the host waits for a device
    kept_count, fresh_count = int(counts.sum()), grown.size - int(counts.sum())
    survives = arrays.put(survives, arrays.take(slots, counting.nonzero(is_kept, kept_count)), True)
    positions = arrays.take(topology.positions, counting.nonzero(survives, survivors.size + kept_count))
    fresh = arrays.take(grown.positions, counting.nonzero(~is_kept, fresh_count))
    return survives, topology.at(positions, survivors.counts + counts), grown.at(fresh, grown.counts - counts)


def _merge(
    before: Topology, survives: Array, survivors: Topology, grown: Topology, initial: Array, values: Array
) -> Reallocation:
    """Merge survivors and grown weights into one ascending order."""
    arrays, counting, host = before.arrays, counting_of(before.arrays), host_of(before.arrays)
    if host is not None and np.count_nonzero(arrays.to_numpy(survives)) == survivors.size:
        return _merge_on_host(before, survives, survivors, grown, initial, values, host)
    positions = arrays.concatenate([survivors.positions, grown.positions])
    order = arrays.argsort(positions)  # of two ascending parts, which a stable sort merges
    kept = counting.nonzero(survives, survivors.size)
    sources = arrays.take(arrays.concatenate([kept, arrays.zeros_like(kept, grown.size) + before.size]), order)
    carried = arrays.concatenate([arrays.take(values, kept), initial])
    return Reallocation(
        before=before,
        after=before.at(arrays.take(positions, order), survivors.counts + grown.counts),
        survives=arrays.readonly(survives),
        sources=arrays.readonly(sources),
        values=arrays.readonly(arrays.take(carried, order)),
        pruned=constant(before.counts - survivors.counts),
        grown=grown.counts,
        given_values=values,
        grown_weights=grown,
        grown_values=initial,
    )


def _merge_on_host(
    before: Topology, survives: Array, survivors: Topology, grown: Topology, initial: Array, values: Array, host: Host
) -> Reallocation:
    arrays = before.arrays
    merging = Merging(
        before.host_positions,
        before.bounds,
        arrays.to_numpy(survives),
        survivors.host_positions,
        survivors.counts,
        grown.host_positions,
        grown.counts,
        host,
    )
    return Reallocation(
        before=before,
        after=before.at(merging.positions(), survivors.counts + grown.counts),
        survives=arrays.readonly(survives),
        sources=arrays.readonly(host.share(merging.sources)),
        values=arrays.readonly(merging.merge(arrays.to_numpy(values), arrays.to_numpy(initial))),
        pruned=constant(before.counts - survivors.counts),
        grown=grown.counts,
        given_values=values,
        grown_weights=grown,
        grown_values=initial,
        merging=merging,
    )


def _replaced(slots: Array, indices: Array, entries: Array, before: Topology) -> Any:
    return before.arrays.put(slots, indices, before.arrays.cast(entries, slots.dtype))


def _gather(slots: Array, sources: Array, before: Topology) -> Any:
    # one zero behind the last slot is what grown weights take: a single gather serves both
    arrays = before.arrays
    return arrays.take(arrays.concatenate([slots, arrays.zeros_like(slots, 1)]), sources)
