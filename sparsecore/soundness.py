"""What makes vectors and topologies sound, told as the end of a sentence; None where nothing is wrong. All in O(N)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.arrays import Array, counting_of
from sparsecore.layout import Layout
from sparsecore.topology import Topology
from sparsecore.words import dtype_name, kind


def trouble_with_topology(topology: Any, layout: Layout) -> str | None:
    """Whether it is a topology of this layout, with sound positions and their bounds, and no empty tensor."""
    if not isinstance(topology, Topology) or topology.layout != layout:
        return f"{kind(topology)}, not a topology of the network's layout"
    trouble = trouble_with_positions(topology.positions, topology)
    if trouble:
        return trouble
    if topology.at(topology.positions).bounds != topology.bounds:
        return f"a topology with the bounds {topology.bounds}, which are not those of its positions"
    empty = [name for name, count in zip(layout.names, topology.counts, strict=True) if count == 0]
    return f"a topology that left no weight in {', '.join(empty)}" if empty else None


def trouble_with_positions(positions: Array, like: Topology) -> str | None:
    """Whether they are a vector of the layout's position dtype, strictly ascending and within bounds."""
    trouble = trouble_with_vector(positions, like)
    if trouble or not len(positions):
        return trouble
    return trouble_with_order(positions, like, like.arrays.to_numpy(order_facts(positions, like)))


def trouble_with_vector(positions: Array, like: Topology) -> str | None:
    """Whether they are a vector of the layout's position dtype; reads no entry."""
    if len(getattr(positions, "shape", ())) != 1:
        return f"{kind(positions)}; expected a vector of positions"
    if dtype_name(positions) != str(like.layout.position_dtype):
        return f"positions of {dtype_name(positions)}; expected {like.layout.position_dtype}"
    return None


def order_facts(positions: Array, like: Topology) -> Array:
    """What :func:`trouble_with_order` asks of positions: int64, on the backend, to be read with other things at once.

    How many are not above the one before, the first, the last, and how many lie below the start of each tensor but
    the first.
    """
    arrays, layout = like.arrays, like.layout
    unordered = counting_of(arrays).count(positions[1:] <= positions[:-1])
    starts = arrays.from_numpy(np.asarray(layout.offsets[1:-1], layout.position_dtype))
    below = arrays.searchsorted(positions, starts, "left")
    ends = [positions[:1], positions[-1:]]
    return arrays.concatenate([unordered, *(arrays.cast(each, np.int64) for each in (*ends, below))])


def trouble_with_order(positions: Array, like: Topology, facts: NDArray[np.int64]) -> str | None:
    """Whether positions, at least one, are strictly ascending and within bounds, by their :func:`order_facts`."""
    layout, arrays = like.layout, like.arrays
    count, lowest, highest = map(int, facts[:3])
    if count:
        unordered = arrays.to_numpy(arrays.nonzero(positions[1:] <= positions[:-1]))
        first, second = (int(positions[int(unordered[0]) + i]) for i in (0, 1))
        twice = f"position {first} twice" if first == second else f"position {second} after {first}"
        return f"{twice}; positions ascend and are distinct"
    if lowest < 0 or highest >= layout.size:
        return f"positions {lowest} to {highest}; the layout has 0 to {layout.size - 1}"
    return None


def counts_of(facts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many of ``size`` ascending positions lie in each tensor, by their :func:`order_facts`."""
    return np.diff(facts[3:], prepend=0, append=size)


def first_common(positions: Array, occupied: Topology) -> int | None:
    """The lowest of these ascending positions that is active, if any."""
    common = occupied.arrays.nonzero(are_common(positions, occupied))
    return int(positions[int(common[0])]) if len(common) else None


def are_common(positions: Array, occupied: Topology) -> Array:
    """Which of these positions are active: one bool each."""
    arrays = occupied.arrays
    # the nearest active position at or below each; -1 stands below them all
    below = arrays.searchsorted(occupied.positions, positions, "right")
    padded = arrays.concatenate([arrays.zeros_like(occupied.positions, 1) - 1, occupied.positions])
    return arrays.take(padded, below) == positions


def where(position: int, layout: Layout) -> str:
    """A position as people count: within its tensor."""
    tensor = int(np.searchsorted(layout.offsets, position, "right")) - 1
    return f"position {position - layout.offsets[tensor]} of {layout.names[tensor]!r}"


def not_finite(values: Array, topology: Topology) -> str:
    """The first tensor with a value that is not finite, quoted; all tensors where it is none of them."""
    for name in topology.layout.names:
        if not topology.arrays.all_finite(values[topology.slots(name)]):
            return repr(name)
    return "the network"
