"""The largest weights of a network as its active ones, such as those of a pretrained network that is pruned at once.

Among equals the lowest position comes first. A weight that is not a number counts as larger than all numbers.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sparsecore.engine.arrays import Array, Arrays, Counts, DenseValues
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError


def largest_of_each(layout: Layout, counts: Counts, values: DenseValues, arrays: Arrays) -> Topology:
    """Return the topology of the largest weights of each tensor.

    Args:
        layout: of the tensors.
        counts: how many weights each tensor has, int64, one number a tensor.
        values: a function from a tensor's name to all its values, (D_i,), row-major, on the backend.
        arrays: the operations of that backend.

    Returns:
        The topology of the ``counts[i]`` weights of tensor i with the largest |w|.
    """
    found = [
        arrays.smallest_indices(_ranks(values(name), arrays), int(count)) + offset
        for name, offset, count in zip(layout.names, layout.offsets, counts, strict=False)
    ]
    return Topology.of(layout, arrays.cast(arrays.concatenate(found), layout.position_dtype), arrays, counts)


def largest_of_all(layout: Layout, count: int, values: DenseValues, arrays: Arrays) -> Topology:
    """Return the topology of the largest weights of the whole network; the largest of each tensor is always among them.

    Args:
        layout: of the tensors.
        count: how many weights there are in all, at least one a tensor.
        values: a function from a tensor's name to all its values, (D_i,), row-major, on the backend, of one dtype.
        arrays: the operations of that backend.

    Raises:
        InputError: there are more tensors than weights.
    """
    if count < len(layout):
        raise InputError(f"{len(layout)} tensors need at least one weight each, and there are to be {count} in all")
    ranks = [_ranks(values(name), arrays) for name in layout.names]
    pairs = zip(ranks, layout.offsets, strict=False)
    kept = arrays.concatenate([arrays.smallest_indices(own, 1) + offset for own, offset in pairs])
    others = arrays.put(arrays.concatenate(ranks), kept, math.inf)
    found = arrays.concatenate([kept, arrays.smallest_indices(others, count - len(layout))])
    return Topology.of(layout, arrays.cast(arrays.sort(found), layout.position_dtype), arrays)


def _like_each(like: Topology, values: DenseValues) -> Topology:
    return largest_of_each(like.layout, like.counts, values, like.arrays)


def _like_all(like: Topology, values: DenseValues) -> Topology:
    return largest_of_all(like.layout, like.size, values, like.arrays)


SCOPES: Mapping[str, Callable[[Topology, DenseValues], Topology]] = MappingProxyType(
    {"tensor": _like_each, "network": _like_all}
)
"""Where the largest weights are looked for: functions of a topology, which says how many, and values to a topology."""


def _ranks(values: Array, arrays: Arrays) -> Array:
    """Return -|w|, by which the largest weights are the smallest entries."""
    magnitudes = abs(values)
    return arrays.where(magnitudes == magnitudes, -magnitudes, -math.inf)  # noqa: PLR0124
