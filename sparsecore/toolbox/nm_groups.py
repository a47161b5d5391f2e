"""Groups of consecutive positions: N weights of each M, as N:M sparsity and constant fan-in have it.

What leads to an output is its fan-in: in a tensor of shape (out, in, kernel...) its in·kernel positions, row-major; a
vector is the fan-in of one output. Each fan-in is cut into groups of M consecutive positions, so that no group holds
what leads to two outputs. Positions and groups are counted from the tensor's first.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, Counts, constant
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError


def group_sizes(layout: Layout, group: int | None) -> tuple[int, ...]:
    """M of each tensor: ``group``, or its whole fan-in where that is None.

    Raises:
        InputError: ``group`` does not divide a fan-in; the sentence names the tensor and what does.
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
    """How many groups each tensor has, of M = ``sizes[i]`` positions."""
    return constant(np.array([size // each for size, each in zip(layout.sizes, sizes, strict=True)], np.int64))


def groups_of(topology: Topology, name: str, size: int) -> Array:
    """The group of each of a tensor's weights, ascending; groups have ``size`` positions."""
    offset = topology.layout.offsets[topology.layout.index(name)]
    return (topology.positions[topology.slots(name)] - offset) // size


def count_in_groups(members: Array, groups: Array, arrays: Arrays) -> Array:
    """How many of ``members``, the ascending groups of some positions, there are of each of ``groups``."""
    return arrays.searchsorted(members, groups, "right") - arrays.searchsorted(members, groups, "left")


def first_of_each_group(groups: Array, most: Array, arrays: Arrays) -> Array:
    """Which entries are among the first of their group.

    Args:
        groups: the group of each entry, in any order.
        most: for each entry, how many of its group are wanted.
        arrays: the verbs of the backend that holds both.

    Returns:
        One bool an entry.
    """
    nobody, asked = arrays.zeros_like(groups, len(groups)) != 0, _wanted(most, arrays)
    groups, most = arrays.take(groups, asked), arrays.take(most, asked)
    order = arrays.argsort(groups)
    together = arrays.take(groups, order)
    before = arrays.arange(len(groups), np.int64) - arrays.searchsorted(together, together, "left")
    return arrays.put(nobody, arrays.take(asked, order), before < arrays.take(most, order))


def _wanted(most: Array, arrays: Arrays) -> Array:
    """Indices of the entries of whose groups any are wanted; where finding them means to wait for a device, of all."""
    is_on_device = getattr(arrays, "counting", None) is not None
    return arrays.arange(len(most), np.int64) if is_on_device else arrays.nonzero(most > 0)


def random_in_groups(
    layout: Layout, sizes: Sequence[int], numbers: Sequence[int] | Counts, random: Randomness, arrays: Arrays
) -> Topology:
    """In each tensor ``numbers[i]`` random positions of each group of ``sizes[i]``, every subset equally likely.

    The draw of each tensor is keyed by its name.
    """
    groups = zip(layout.names, layout.offsets, group_counts(layout, sizes), sizes, numbers, strict=False)
    chosen = [
        offset + _drawn(random.generator("groups", name), int(count), size, int(number))
        for name, offset, count, size, number in groups
    ]
    return Topology.of(layout, arrays.from_numpy(np.concatenate(chosen).astype(layout.position_dtype)), arrays)


def _drawn(generator: np.random.Generator, groups: int, size: int, number: int) -> NDArray[np.int64]:
    """``number`` positions of each group, ascending."""
    # those of the smallest of as many draws as there are positions: one tensor's, as its gradient is
    luck = generator.random((groups, size))
    places = np.sort(np.argpartition(luck, number - 1, axis=1)[:, :number], axis=1)
    return (places + np.arange(groups)[:, None] * size).ravel()


def _fan_in(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:] if len(shape) > 1 else shape)
