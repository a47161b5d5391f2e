"""What makes vectors and topologies sound, told as the end of a sentence; None where nothing is wrong. All in O(N)."""

from typing import Any

import numpy as np

from sparsecore.arrays import Array
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
    layout, arrays = like.layout, like.arrays
    if len(getattr(positions, "shape", ())) != 1:
        return f"{kind(positions)}; expected a vector of positions"
    if dtype_name(positions) != str(layout.position_dtype):
        return f"positions of {dtype_name(positions)}; expected {layout.position_dtype}"
    if not len(positions):
        return None
    unordered = arrays.to_numpy(arrays.nonzero(positions[1:] <= positions[:-1]))
    if len(unordered):
        first, second = (int(positions[int(unordered[0]) + i]) for i in (0, 1))
        twice = f"position {first} twice" if first == second else f"position {second} after {first}"
        return f"{twice}; positions ascend and are distinct"
    lowest, highest = int(positions[0]), int(positions[-1])
    if lowest < 0 or highest >= layout.size:
        return f"positions {lowest} to {highest}; the layout has 0 to {layout.size - 1}"
    return None


def first_common(positions: Array, occupied: Topology) -> int | None:
    """The lowest of these ascending positions that is active, if any."""
    arrays = occupied.arrays
    # the nearest active position at or below each; -1 stands below them all
    below = arrays.searchsorted(occupied.positions, positions, "right")
    padded = arrays.concatenate([arrays.zeros_like(occupied.positions, 1) - 1, occupied.positions])
    common = arrays.nonzero(arrays.take(padded, below) == positions)
    return int(positions[int(common[0])]) if len(common) else None


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
