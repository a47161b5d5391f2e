"""Groups of consecutive positions: N weights of each M, as N:M sparsity and constant fan-in have it.

The fan-in of an output are the positions that lead to it: in·kernel consecutive ones in a tensor of shape
(out, in, kernel...), and all of them in a vector. Each fan-in is divided into groups of M consecutive positions, so
that no group leads to two outputs. Positions and groups are counted from the tensor's first.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, Counts, constant
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError

_CANDIDATES = 4
"""How many times as many entries as are wanted are looked at in each round of :func:`smallest_of_each_group`."""

_ROUNDS = 12
"""After as many rounds all entries of the groups that are left are sorted."""


def group_sizes(layout: Layout, group: int | None) -> tuple[int, ...]:
    """Return M of each tensor.

    Args:
        layout: the tensors.
        group: M for all tensors; None for the whole fan-in of each.

    Raises:
        InputError: ``group`` does not divide a fan-in; the message names the tensor and the possible groups.
    """
    fans = [_fan_in(shape) for shape in layout.shapes]
    for name, fan in zip(layout.names, fans, strict=True):
        if group is not None and fan % group:
            common = math.gcd(*fans)
            divisors = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
            raise InputError(
                f"groups of {group} do not divide the fan-in of {name!r}, {fan}; "
                f"what divides that of every sparse tensor: {divisors}"
            )
    return tuple(fan if group is None else group for fan in fans)


def group_counts(layout: Layout, sizes: Sequence[int]) -> Counts:
    """Return how many groups each tensor has.

    Args:
        layout: the tensors.
        sizes: M of each tensor, as :func:`group_sizes` returns it.
    """
    return constant(np.array([size // each for size, each in zip(layout.sizes, sizes, strict=True)], np.int64))


def groups_of(topology: Topology, name: str, size: int) -> Array:
    """Return the group of each of a tensor's weights, ascending.

    Args:
        topology: the active positions.
        name: the tensor.
        size: M, the number of positions in a group.
    """
    offset = topology.layout.offsets[topology.layout.index(name)]
    return (topology.positions[topology.slots(name)] - offset) // size


def count_in_groups(members: Array, groups: Array, arrays: Arrays) -> Array:
    """Count positions by group.

    Args:
        members: the groups of some positions, ascending.
        groups: the groups whose positions are counted.
        arrays: the operations of the backend that holds both.

    Returns:
        One number for each entry of ``groups``: how often it occurs in ``members``.
    """
    return arrays.searchsorted(members, groups, "right") - arrays.searchsorted(members, groups, "left")


def first_of_each_group(groups: Array, most: Array, arrays: Arrays) -> Array:
    """Return which entries are among the first of their group.

    Args:
        groups: the group of each entry, in any order.
        most: for each entry, how many of its group are wanted.
        arrays: the operations of the backend that holds both.

    Returns:
        One bool an entry.
    """
    none, wanted = arrays.zeros_like(groups, len(groups)) != 0, _wanted(most, arrays)
    groups, most = arrays.take(groups, wanted), arrays.take(most, wanted)
    order = arrays.argsort(groups)
    together = arrays.take(groups, order)
    before = arrays.arange(len(groups), np.int64) - arrays.searchsorted(together, together, "left")
    return arrays.put(none, arrays.take(wanted, order), before < arrays.take(most, order))


def _wanted(most: Array, arrays: Arrays) -> Array:
    """Return the indices of the entries whose groups are wanted at all; on a device, of all entries."""
    is_on_device = getattr(arrays, "counting", None) is not None
    return arrays.arange(len(most), np.int64) if is_on_device else arrays.nonzero(most > 0)


def smallest_of_each_group(ranks: Array, size: int, counts: Array, arrays: Arrays) -> Array:
    """Return the indices of the smallest entries of each group, ascending, without sorting all entries.

    The smallest entries of all groups together are candidates. Groups that have enough of them are done, since each has
    its smallest ones among them; for the others this is repeated.

    Args:
        ranks: one number a position of a tensor; of equal ones the first is taken, and NaN comes after all numbers.
        size: M, the number of consecutive entries in a group.
        counts: how many entries of each group are wanted, at most M, int64.
        arrays: the operations of the backend that holds the arrays.
    """
    total = len(counts)
    groups = arrays.nonzero(counts > 0)
    found = [groups[:0]]
    rounds = _ROUNDS if getattr(arrays, "counting", None) is None else 0  # on a device a sort takes less than to wait
    while len(groups):
        wanted = arrays.take(counts, groups)
        is_all = len(groups) == total
        entries = None if is_all else _positions_of(groups, size, arrays)
        own = ranks if entries is None else arrays.take(ranks, entries)
        count = min(len(own), _CANDIDATES * int(arrays.to_numpy(wanted).sum())) if rounds > 0 else len(own)
        candidates = arrays.smallest_indices(own, count)
        owners = candidates // size  # among the groups of this round
        ends = arrays.searchsorted(owners, arrays.arange(len(groups) + 1, np.int64), "left")
        is_served = (ends[1:] - ends[:-1]) >= wanted
        most = arrays.take(arrays.where(is_served, wanted, 0), owners)
        order = arrays.argsort(arrays.take(own, candidates))
        chosen = first_of_each_group(arrays.take(owners, order), arrays.take(most, order), arrays)
        smallest = arrays.take(candidates, arrays.take(order, arrays.nonzero(chosen)))
        found.append(smallest if entries is None else arrays.take(entries, smallest))
        groups = arrays.take(groups, arrays.nonzero(~is_served))
        rounds -= 1
    return arrays.sort(arrays.concatenate(found))


def _positions_of(groups: Array, size: int, arrays: Arrays) -> Array:
    """Return all positions of these groups, in the order of the groups."""
    entries = arrays.arange(len(groups) * size, np.int64)
    return arrays.take(groups, entries // size) * size + entries % size


def random_in_groups(
    layout: Layout, sizes: Sequence[int], numbers: Sequence[int] | Counts, random: Randomness, arrays: Arrays
) -> Topology:
    """Draw ``numbers[i]`` random positions of each group of ``sizes[i]`` in tensor i, every subset equally likely.

    The draw of each tensor is keyed by its name.

    Args:
        layout: the tensors.
        sizes: M of each tensor, as :func:`group_sizes` returns it.
        numbers: how many positions to draw in each group of a tensor, at least 1 and at most M.
        random: the random numbers of this purpose.
        arrays: the operations of the backend that is to hold the positions.
    """
    groups = zip(layout.names, layout.offsets, group_counts(layout, sizes), sizes, numbers, strict=False)
    chosen = [
        offset + _drawn(random.generator("groups", name), int(count), size, int(number))
        for name, offset, count, size, number in groups
    ]
    return Topology.of(layout, arrays.from_numpy(np.concatenate(chosen).astype(layout.position_dtype)), arrays)


def _drawn(generator: np.random.Generator, groups: int, size: int, number: int) -> NDArray[np.int64]:
    """Draw ``number`` positions of each group, ascending."""
    # the positions of the smallest of one draw a position: no more memory than the tensor's dense gradient takes
    draws = generator.random((groups, size))
    within = np.sort(np.argpartition(draws, number - 1, axis=1)[:, :number], axis=1)
    return (within + np.arange(groups)[:, None] * size).ravel()


def _fan_in(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:] if len(shape) > 1 else shape)
