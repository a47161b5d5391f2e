"""The neuron ablation of SRigL (Lasby et al. 2024): which neurons lose their weights, and what the others get."""

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.strategy import (
    Array,
    Arrays,
    Counts,
    Gradient,
    Topology,
    as_written,
    count_in_groups,
    first_of_each_group,
    groups_of,
    smallest,
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

    def left(self, values: Array, gradient: Gradient, count: int, ablate: float) -> NDArray[np.bool_]:
        """Return which neurons are not ablated: those with at least γ times the fan-in of salient positions.

        The fan-in is that which all neurons would have. Salient are the largest weights, all but ``count``, and the
        ``count`` positions with the largest |gradient|, active or not. As many neurons are left as can hold all weights
        and one more; of no neuron more than one salient position is asked where the fan-in is small.

        Args:
            values: of all weights, (N,).
            gradient: the dense gradients.
            count: how many weights the update drops.
            ablate: γ.

        Returns:
            One bool a neuron; all True for a full tensor.
        """
        total, neurons = len(self.groups), len(self.counts)
        if total == neurons * self.size:
            return np.ones(neurons, np.bool_)
        salient = np.bincount(self._salient(values, gradient, count) // self.size, minlength=neurons)
        asked = max(1, int(as_written(ablate) * (total // neurons)))
        asked = min(asked, np.sort(salient)[::-1][total // self.size])
        enough: NDArray[np.bool_] = salient >= asked
        return enough

    def dropped(self, values: Array, left: NDArray[np.bool_], count: int, *, replaceable: bool) -> Array:
        """Return the slots of all weights of ablated neurons and of the smallest others, ``count`` together.

        More are dropped where ablated neurons have more, and where a neuron has more than its new fan-in.

        Args:
            values: of all weights, (N,).
            left: which neurons are not ablated.
            count: how many are to be dropped.
            replaceable: whether of each neuron no more is dropped than it has had free positions.
        """
        arrays, slots = self.topology.arrays, self.topology.slots(self.name)
        fan_ins = self.fan_ins(left, len(self.groups))
        ranks = arrays.argsort(abs(values[slots]))
        is_left = arrays.take(arrays.from_numpy(left.astype(np.int8)), arrays.take(self.groups, ranks))
        order = arrays.take(ranks, arrays.argsort(is_left))  # a stable sort: the smallest first, after the ablated
        groups = arrays.take(self.groups, order)
        room = np.minimum(self.size - fan_ins, self.counts) if replaceable else self.counts
        most, least = np.where(left, room, self.counts), np.maximum(0, self.counts - fan_ins)
        may, must = (
            first_of_each_group(groups, arrays.take(arrays.from_numpy(each), groups), arrays) for each in (most, least)
        )
        smallest = arrays.nonzero(may)[:count]
        chosen = arrays.put(must, smallest, arrays.take(may, smallest))
        return arrays.take(order + slots.start, arrays.nonzero(chosen))

    def fillers(self, free: Array, left: NDArray[np.bool_], count: int) -> Array:
        """Return free positions of a tensor with those first that fill up the neurons that are left.

        Args:
            free: the free positions of the tensor, in the order in which they are to grow.
            left: which neurons are not ablated.
            count: how many grow.
        """
        missing = self.fan_ins(left, len(self.groups) + count) - self.counts
        arrays = self.topology.arrays
        most = arrays.take(arrays.from_numpy(np.maximum(0, missing)), free // self.size)
        return first_in_groups(free, most, self.size, arrays)

    @staticmethod
    def fan_ins(left: NDArray[np.bool_], total: int) -> Counts:
        """Return the number of weights of each neuron, as even as possible among those that are left.

        Args:
            left: which neurons are not ablated.
            total: the number of weights of the tensor.
        """
        each, more = divmod(total, int(left.sum()))
        fan_ins = np.where(left, each, 0)
        fan_ins[np.flatnonzero(left)[:more]] += 1
        return fan_ins

    def _salient(self, values: Array, gradient: Gradient, count: int) -> NDArray[np.int64]:
        """Return the salient positions, each once, counted from the tensor's first."""
        arrays, layout, slots = self.topology.arrays, self.topology.layout, self.topology.slots(self.name)
        large = self.topology.positions[slots] - layout.offsets[layout.index(self.name)]
        large = arrays.take(large, arrays.argsort(abs(values[slots]))[count:])
        magnitudes = abs(gradient(self.name))
        # NaN comes last
        steep = smallest(arrays.where(magnitudes == magnitudes, -magnitudes, 1), count, arrays)  # noqa: PLR0124
        return np.union1d(arrays.to_numpy(large).astype(np.int64), arrays.to_numpy(steep).astype(np.int64))
