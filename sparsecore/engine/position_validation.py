"""What may be wrong with positions that a plugin, a caller or a file gives, found in O(N) with few waits for a device.

Functions named ``x_error`` return what is wrong as the end of a sentence, or None.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, counting_of, describe, dtype_name
from sparsecore.engine.topology import Layout, Topology


def topology_error(topology: Any, layout: Layout) -> str | None:
    """Return what is wrong with a topology of this layout: its type, positions or bounds, or an empty tensor.

    Args:
        topology: what a hook or a caller gave, of any type.
        layout: the layout that it must have.
    """
    if not isinstance(topology, Topology) or topology.layout != layout:
        return f"{describe(topology)}, not a topology of the network's layout"
    error = positions_error(topology.positions, topology)
    if error:
        return error
    if topology.at(topology.positions).bounds != topology.bounds:
        return f"a topology with the bounds {topology.bounds}, which are not those of its positions"
    empty = [name for name, count in zip(layout.names, topology.counts, strict=True) if count == 0]
    return f"a topology that left no weight in {', '.join(empty)}" if empty else None


def positions_error(positions: Array, like: Topology) -> str | None:
    """Return what is wrong with positions of the layout of ``like``: dtype, shape, order or range.

    Args:
        positions: of any shape and dtype, on the backend of ``like``; the host waits for a device once.
        like: a topology of the layout that they must be in.
    """
    error = position_vector_error(positions, like)
    if error or not len(positions):
        return error
    return position_order_error(positions, like, like.arrays.to_numpy(order_statistics(positions, like)))


def position_vector_error(positions: Array, like: Topology) -> str | None:
    """Return what is wrong with the shape or the dtype of positions; no entry is read.

    Args:
        positions: anything that a plugin returned.
        like: a topology of the layout whose position dtype they must have.
    """
    if len(getattr(positions, "shape", ())) != 1:
        return f"{describe(positions)}; expected a vector of positions"
    if dtype_name(positions) != str(like.layout.position_dtype):
        return f"positions of {dtype_name(positions)}; expected {like.layout.position_dtype}"
    return None


def order_statistics(positions: Array, like: Topology) -> Array:
    """Return what :func:`position_order_error` needs to know, as one vector, so that a device is waited for once.

    Args:
        positions: at least one.
        like: a topology of the same layout, on the same backend.

    Returns:
        int64, on the backend: how many positions are not above the one before, the first position, the last one, and
        for each tensor but the first how many positions are below its start.
    """
    arrays, layout = like.arrays, like.layout
    unordered = counting_of(arrays).count(positions[1:] <= positions[:-1])
    starts = arrays.from_numpy(np.asarray(layout.offsets[1:-1], layout.position_dtype))
    below = arrays.searchsorted(positions, starts, "left")
    ends = [positions[:1], positions[-1:]]
    return arrays.concatenate([unordered, *(arrays.cast(each, np.int64) for each in (*ends, below))])


def position_order_error(positions: Array, like: Topology, statistics: NDArray[np.int64]) -> str | None:
    """Return how positions, at least one, are not strictly ascending or out of range.

    Args:
        positions: the positions, from which only a sentence about an error quotes.
        like: a topology of the same layout, on the same backend.
        statistics: their :func:`order_statistics`, on the host.
    """
    layout, arrays = like.layout, like.arrays
    count, lowest, highest = map(int, statistics[:3])
    if count:
        unordered = arrays.to_numpy(arrays.nonzero(positions[1:] <= positions[:-1]))
        first, second = (int(positions[int(unordered[0]) + i]) for i in (0, 1))
        twice = f"position {first} twice" if first == second else f"position {second} after {first}"
        return f"{twice}; positions ascend and are distinct"
    if lowest < 0 or highest >= layout.size:
        return f"positions {lowest} to {highest}; the layout has 0 to {layout.size - 1}"
    return None


def counts_per_tensor(statistics: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return how many ascending positions are in each tensor.

    Args:
        statistics: the :func:`order_statistics` of the positions, on the host, (T+2,).
        size: the number of positions.

    Returns:
        (T,), ``size`` together.
    """
    return np.diff(statistics[3:], prepend=0, append=size)


def is_active(positions: Array, occupied: Topology) -> Array:
    """Return which of these positions are active: one bool each.

    Args:
        positions: in the layout's position dtype, on the backend, in any order.
        occupied: the active positions.
    """
    arrays = occupied.arrays
    # the nearest active position at or below each; -1 stands below them all
    below = arrays.searchsorted(occupied.positions, positions, "right")
    padded = arrays.concatenate([arrays.zeros_like(occupied.positions, 1) - 1, occupied.positions])
    return arrays.take(padded, below) == positions


def describe_position(position: int, layout: Layout) -> str:
    """Describe a position by its tensor's name and its index within the tensor.

    Args:
        position: in [0, D).
        layout: the layout that it is in.

    Returns:
        For example "position 3 of 'conv1'", counted within the flat tensor.
    """
    tensor = int(np.searchsorted(layout.offsets, position, "right")) - 1
    return f"position {position - layout.offsets[tensor]} of {layout.names[tensor]!r}"
