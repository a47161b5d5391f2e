"""The smallest weights and the best free positions, the same ones on every backend.

Among equals the lowest position comes first: it is the first to be pruned, and the first to grow.
"""

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from sparsecore.engine import host_parts
from sparsecore.engine.arrays import Array, Arrays, Counts, constant, counting_of, host_of, is_known_to_numpy
from sparsecore.engine.schedules import Schedule, as_written
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError


def check_fraction(_: object, attribute: "attrs.Attribute[Any]", schedule: Schedule) -> None:
    """Validate that a schedule stays within [0, 1); an attrs validator.

    Args:
        attribute: whose name the message has.
        schedule: the attribute's value, judged by its lowest and highest number in any run.

    Raises:
        InputError: it does not.
    """
    if not 0 <= schedule.lowest <= schedule.highest < 1:
        raise InputError(f"{attribute.name} must be at least 0 and below 1; given {schedule}")


def fraction_of(fraction: float, counts: Counts) -> Counts:
    """Return ⌊fraction · count⌋ of each count.

    Args:
        fraction: taken as the decimal that is written, so that 0.29 of 100 is 29.
        counts: int64, one number a tensor.
    """
    exact = as_written(fraction)
    return constant(np.array([int(exact * int(count)) for count in counts], np.int64))


def fraction_rounded_up(fraction: float, counts: Counts) -> Counts:
    """Return ⌈fraction · count⌉ of each count, and where that is all of them, one less.

    Args:
        fraction: taken as the decimal that is written, so that 0.29 of 100 is 29.
        counts: int64, one number a tensor.
    """
    exact = as_written(fraction)
    return constant(
        np.array([min(math.ceil(exact * int(count)), max(0, int(count) - 1)) for count in counts], np.int64)
    )


def smallest(scores: Array, count: int, arrays: Arrays) -> Array:
    """Return the indices of the smallest scores, ascending; of equal scores the lowest indices are taken.

    Args:
        scores: a vector of the backend. NaN comes after all numbers.
        count: how many indices to return; all where there are no more scores.
        arrays: the operations of that backend.
    """
    return arrays.smallest_indices(scores, min(count, len(scores)))


def smallest_of_each(topology: Topology, values: Array, counts: Counts) -> Array:
    """Find the smallest weights of each tensor.

    Args:
        topology: the active positions.
        values: one value a weight.
        counts: how many to find in each tensor.

    Returns:
        The slots of the ``counts[i]`` smallest |w| of tensor i, ascending, for :meth:`Topology.all_but`.
    """
    return slots_in_each(topology, values, lambda i, own, arrays: smallest(abs(own), int(counts[i]), arrays))


def slots_in_each(topology: Topology, values: Array, find: Callable[[int, Array, Arrays], Array]) -> Array:
    """Join the slots that a function finds in each tensor.

    Args:
        topology: the active positions.
        values: one value a weight.
        find: returns indices of weights in a tensor, given the tensor's index, the values of its weights, and the
            operations of their arrays. These are NumPy's where the backend has its arrays on the host; several threads
            may call it then.

    Returns:
        Slots, in the order of the tensors, on the backend.
    """
    arrays, bounds, host = topology.arrays, topology.bounds, host_of(topology.arrays)
    if host is None:
        found = [find(i, values[bounds[i] : bounds[i + 1]], arrays) + bounds[i] for i in range(len(topology.layout))]
        return arrays.concatenate(found)
    whole, operations = arrays.to_numpy(values), host.arrays

    def find_slots(tensor: int) -> Array:
        return find(tensor, whole[bounds[tensor] : bounds[tensor + 1]], operations) + bounds[tensor]

    return host.share(
        np.concatenate(host_parts.in_threads(find_slots, range(len(topology.layout)), topology.size, host.threads))
    )


def smallest_of_all(topology: Topology, values: Array, count: int) -> Array:
    """Find the smallest weights of the network; the largest of each tensor is never among them.

    Args:
        topology: the active positions.
        values: one value a weight.
        count: how many to find, at most as many as there are weights less one a tensor.

    Returns:
        The slots of the ``count`` smallest |w|, for :meth:`Topology.all_but`.
    """
    arrays, magnitudes = topology.arrays, abs(values)
    bounds = zip(topology.bounds[:-1], topology.bounds[1:], strict=True)
    largest = [_largest_slot(magnitudes[first:last], arrays) + first for first, last in bounds]
    mask = topology.all_but(arrays.concatenate(largest))
    others = counting_of(arrays).nonzero(mask, topology.size - sum(map(len, largest)))
    return arrays.take(others, smallest(arrays.take(magnitudes, others), count, arrays))


def _largest_slot(magnitudes: Array, arrays: Arrays) -> Array:
    """Return the slot of the largest magnitude, of equal ones the last; none where there are no magnitudes."""
    count = len(magnitudes)
    others = arrays.smallest_indices(magnitudes, max(0, count - 1))
    is_largest = arrays.put(arrays.zeros_like(magnitudes, count) == 0, others, False)
    return counting_of(arrays).nonzero(is_largest, min(count, 1))


def largest_free(occupied: Topology, counts: Counts, scores: Callable[[str], Array]) -> Array:
    """Return the free positions with the largest |score|, ``counts[i]`` of them in tensor i, ascending.

    It takes a few passes over the scores, and sorts none of them.

    Args:
        occupied: the positions that are not free.
        counts: how many are to be found in each tensor, at most its room.
        scores: a function from a tensor's name to one number a position, active or not, row-major, on the backend,
            such as a gradient. NaN comes after all numbers.
    """
    arrays, layout, host = occupied.arrays, occupied.layout, host_of(occupied.arrays)
    if host is None:
        find = arrays.smallest_indices
        return _found_in_each(
            occupied, counts, lambda name, count: find(free_ranks(occupied, name, scores(name)), count)
        )

    def host_scores(tensor: int) -> Any:
        own = scores(layout.names[tensor])
        return arrays.to_numpy(own if is_known_to_numpy(own) else arrays.cast(own, np.float32))

    positions, bounds = occupied.host_positions, occupied.bounds
    return host_parts.largest_free(positions, bounds, layout.offsets, counts, host_scores, host)


def free_ranks(occupied: Topology, name: str, scores: Array) -> Array:
    """Return one number for each position of a tensor: the smallest where the |score| of a free position is largest.

    Args:
        occupied: the positions that are not free.
        name: the tensor.
        scores: one number a position, active or not, row-major, on the backend.

    Returns:
        -|score| for free positions, which is at most 0; 1 for those whose score is NaN; 2 for occupied positions.
    """
    arrays, layout, magnitudes = occupied.arrays, occupied.layout, abs(scores)
    active = occupied.positions[occupied.slots(name)] - layout.offsets[layout.index(name)]
    ranks = arrays.where(magnitudes == magnitudes, -magnitudes, 1)  # noqa: PLR0124
    return arrays.put(ranks, active, 2)


def first_free(occupied: Topology, counts: Counts, ordered: Callable[[str], Array]) -> Array:
    """Return the first ``counts[i]`` of the free positions of tensor i in a given order; ascending.

    Args:
        occupied: the positions that are not free.
        counts: how many are to be found in each tensor, at most its room.
        ordered: a function from a tensor's name to its free positions in that order, counted from the tensor's first
            position; it is not called where none is to be found.
    """
    sort = occupied.arrays.sort
    return _found_in_each(occupied, counts, lambda name, count: sort(ordered(name)[:count]))


def _found_in_each(occupied: Topology, counts: Counts, find: Callable[[str, int], Array]) -> Array:
    """Join what ``find`` returns for each tensor and number: positions, ascending, counted from the tensor's first."""
    arrays, layout = occupied.arrays, occupied.layout
    found = [
        arrays.cast(find(name, int(count)) + offset, layout.position_dtype) if count else occupied.positions[:0]
        for name, offset, count in zip(layout.names, layout.offsets, counts, strict=False)
    ]
    return arrays.concatenate(found)


def free_by_score(occupied: Topology, name: str, scores: Callable[[str], Array]) -> Array:
    """Sort a tensor's free positions by |score|, the largest first, of equal ones the lowest position first.

    Args:
        occupied: the positions that are not free.
        name: the tensor.
        scores: as for :func:`largest_free`.

    Returns:
        All free positions of the tensor, counted from its first one.
    """
    arrays, layout = occupied.arrays, occupied.layout
    offset, size = layout.offsets[layout.index(name)], layout.sizes[layout.index(name)]
    is_free = arrays.zeros_like(occupied.positions, size) == 0
    active = occupied.positions[occupied.slots(name)] - offset
    free = counting_of(arrays).nonzero(arrays.put(is_free, active, False), size - len(active))
    # sorting puts NaN last
    return arrays.take(free, arrays.argsort(-abs(arrays.take(scores(name), free))))
