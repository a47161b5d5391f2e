"""The neuron ablation of SRigL (Lasby et al. 2024): which neurons lose their weights, and what the others get."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.strategy import (
    Array,
    Arrays,
    Counts,
    Gradient,
    Topology,
    count_in_groups,
    first_of_each_group,
    free_by_score,
    groups_of,
)


def first_in_groups(free: Array, most: Array, size: int, arrays: Arrays) -> Array:
    """Return free positions of a tensor with the first of each group before all others.

    Args:
        free: the positions, counted from the tensor's first, in the order in which they are to grow.
        most: for each of them, how many of its group go first.
        size: the number of positions in a group.
        arrays: the operations of the backend.
    """
    replaces = first_of_each_group(free // size, most, arrays)
    # the others are needed where strategies above prune or share out without regard to groups
    return arrays.take(free, arrays.argsort(arrays.cast(~replaces, np.int8)))


@attrs.frozen(eq=False)
class Neurons:
    """The weights of a tensor by the neuron, the output, that they lead to.

    Attributes:
        topology: the active positions.
        name: the tensor.
        size: the number of positions of a neuron.
        groups: the neuron of each of the tensor's weights, ascending.
        counts: the number of weights of each neuron, int64.
    """

    topology: Topology
    name: str
    size: int
    groups: Array
    counts: Counts

    @classmethod
    def of(cls, topology: Topology, name: str, size: int) -> "Neurons":
        """Return the neurons of a tensor.

        Args:
            topology: the active positions.
            name: the tensor.
            size: the number of positions of a neuron.
        """
        groups, arrays = groups_of(topology, name, size), topology.arrays
        neurons = arrays.arange(topology.layout.sizes[topology.layout.index(name)] // size, np.int64)
        return cls(topology, name, size, groups, arrays.to_numpy(count_in_groups(groups, neurons, arrays)))

    def dropped(self, values: Array, gradient: Gradient, count: int, ablate: float) -> Array:
        """Return the slots of the ``count`` smallest weights, and of those that do not fit the new fan-ins.

        Args:
            values: of all weights, (N,).
            gradient: the dense gradients.
            count: how many are to be dropped, besides those of ablated neurons.
            ablate: γ.
        """
        arrays, slots = self.topology.arrays, self.topology.slots(self.name)
        order = arrays.argsort(abs(values[slots]))
        groups = arrays.take(self.groups, order)
        fan_ins = self._fan_ins(self._left(groups[count:], gradient, count, ablate), len(self.groups))
        # one weight stays, by which growth sees which neurons are left
        most = np.where(fan_ins > 0, np.minimum(self.size - fan_ins, self.counts - 1), self.counts)
        least = np.maximum(0, self.counts - fan_ins)
        may, must = (
            first_of_each_group(groups, arrays.take(arrays.from_numpy(each), groups), arrays) for each in (most, least)
        )
        smallest = arrays.nonzero(may)[:count]
        chosen = arrays.put(must, smallest, arrays.take(may, smallest))
        return arrays.take(order + slots.start, arrays.nonzero(chosen))

    def fillers(self, free: Array, count: int) -> Array:
        """Return free positions of a tensor with those first that fill up the neurons that are left.

        Args:
            free: the free positions of the tensor, in the order in which they are to grow.
            count: how many grow.
        """
        missing = self._fan_ins(self.counts > 0, len(self.groups) + count) - self.counts
        arrays = self.topology.arrays
        most = arrays.take(arrays.from_numpy(np.maximum(0, missing)), free // self.size)
        return first_in_groups(free, most, self.size, arrays)

    def _fan_ins(self, left: NDArray[np.bool_], total: int) -> Counts:
        """Return the number of weights of each neuron, as even as possible among those that are left."""
        each, more = divmod(total, int(left.sum()))
        fan_ins = np.where(left, each, 0)
        fan_ins[np.flatnonzero(left)[:more]] += 1
        return fan_ins

    def _left(self, large: Array, gradient: Gradient, count: int, ablate: float) -> NDArray[np.bool_]:
        """Return which neurons are not ablated: those with enough salient weights, and as many as hold all weights."""
        arrays, neurons = self.topology.arrays, len(self.counts)
        steep = free_by_score(self.topology, self.name, gradient)[:count] // self.size
        salient: Any = sum(np.bincount(arrays.to_numpy(part), minlength=neurons) for part in (large, steep))
        there = self.counts > 0
        enough: NDArray[np.bool_] = there & (salient >= ablate * len(self.groups) / there.sum())
        needed = -(-len(self.groups) // self.size)
        if enough.sum() >= needed:
            return enough
        best = np.lexsort((-salient, ~there))[:needed]
        return np.isin(np.arange(neurons), best)
