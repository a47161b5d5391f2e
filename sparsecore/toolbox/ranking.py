"""The smallest weights and the best free positions: the same on every backend, equal ones in the order of positions.

Among equals the lowest position comes first: it is the first to be dropped, and the first to grow.
"""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from sparsecore.engine.arrays import Array, Arrays, Counts, constant, counting_of
from sparsecore.engine.schedules import Schedule, as_written
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError


def check_fraction(_: object, attribute: "attrs.Attribute[Any]", schedule: Schedule) -> None:
    """Validate that a schedule stays within [0, 1)."""
    if not 0 <= schedule.lowest <= schedule.highest < 1:
        raise InputError(f"{attribute.name} must be at least 0 and below 1; given {schedule}")


def fraction_of(fraction: float, counts: Counts) -> Counts:
    """⌊fraction · count⌋ of each, with the fraction as the decimal that was written."""
    exact = as_written(fraction)
    return constant(np.array([int(exact * int(count)) for count in counts], np.int64))


def smallest(scores: Array, count: int, arrays: Arrays) -> Array:
    """Indices of the ``count`` smallest scores, the smallest first."""
    return arrays.argsort(scores)[:count]


def smallest_of_each(topology: Topology, values: Array, counts: Counts) -> Array:
    """Slots of the ``counts[i]`` smallest |w| of each tensor."""
    found = [
        smallest(abs(values[first:last]), int(count), topology.arrays) + first
        for first, last, count in zip(topology.bounds[:-1], topology.bounds[1:], counts, strict=True)
    ]
    return topology.arrays.concatenate(found)


def smallest_of_all(topology: Topology, values: Array, count: int) -> Array:
    """Slots of the ``count`` smallest |w| of the network, but of each tensor the largest, which is never among them."""
    arrays, magnitudes = topology.arrays, abs(values)
    bounds = zip(topology.bounds[:-1], topology.bounds[1:], strict=True)
    largest = [arrays.argsort(magnitudes[first:last])[-1:] + first for first, last in bounds]
    mask = topology.all_but(arrays.concatenate(largest))
    others = counting_of(arrays).nonzero(mask, topology.size - sum(map(len, largest)))
    return arrays.take(others, smallest(arrays.take(magnitudes, others), count, arrays))


def largest_free(occupied: Topology, counts: Counts, scores: Callable[[str], Array]) -> Array:
    """The free positions with the largest |score|, ``counts[i]`` of them in tensor i, ascending.

    Args:
        occupied: the positions that are not free.
        counts: how many are to be found in each tensor, at most its room.
        scores: by a tensor's name, one number a position, active or not, row-major, on the backend. One that is not a
            number (NaN) comes after all that are.
    """
    return first_free(occupied, counts, lambda name: free_by_score(occupied, name, scores))


def first_free(occupied: Topology, counts: Counts, ordered: Callable[[str], Array]) -> Array:
    """Of each tensor the first ``counts[i]`` of its free positions as ``ordered`` gives them by name; ascending.

    What ``ordered`` gives counts from the tensor's first position. It is not asked where none is wanted.
    """
    arrays, layout = occupied.arrays, occupied.layout
    found = [
        arrays.cast(arrays.sort(ordered(name)[: int(count)]) + offset, layout.position_dtype)
        if count
        else occupied.positions[:0]
        for name, offset, count in zip(layout.names, layout.offsets, counts, strict=False)
    ]
    return arrays.concatenate(found)


def free_by_score(occupied: Topology, name: str, scores: Callable[[str], Array]) -> Array:
    """A tensor's free positions, counted from its first one: the largest |score| first, among equals the lowest."""
    arrays, layout = occupied.arrays, occupied.layout
    offset, size = layout.offsets[layout.index(name)], layout.sizes[layout.index(name)]
    is_free = arrays.zeros_like(occupied.positions, size) == 0
    taken = occupied.positions[occupied.slots(name)] - offset
    free = counting_of(arrays).nonzero(arrays.put(is_free, taken, False), size - len(taken))
    # sorting puts what is not a number last
    return arrays.take(free, arrays.argsort(-abs(arrays.take(scores(name), free))))
