"""Free positions, without ever building a mask.

The free position of rank r lies between two sorted active ones: position p has p - (active positions below p) free
positions below it, so one ``searchsorted`` turns all ranks of a network into positions, in O(k log N).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays
from sparsecore.engine.layout import Layout
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.shares import Counts
from sparsecore.engine.topology import Topology


def draw_ranks(generator: np.random.Generator, room: int, count: int) -> NDArray[np.int64]:
    """``count`` distinct ranks below ``room``, every subset equally likely, ascending; O(count) memory."""
    return np.sort(generator.choice(room, count, replace=False, shuffle=False))


def random_free_positions(occupied: Topology, counts: Sequence[int] | Counts, random: Randomness) -> Array:
    """Uniformly random positions outside ``occupied``: exactly ``counts[i]`` distinct ones in tensor i, ascending.

    The draw of each tensor is keyed by its name.
    """
    drawn = [
        draw_ranks(random.generator("growth", name), int(room), int(count)) if count else np.empty(0, np.int64)
        for name, room, count in zip(occupied.layout.names, occupied.room, counts, strict=True)
    ]
    return free_positions(occupied, drawn)


def free_positions(occupied: Topology, ranks: Sequence[NDArray[np.int64]]) -> Array:
    """The free positions of these ranks: ``ranks[i]`` counts the free positions of tensor i from 0, ascending."""
    arrays, dtype = occupied.arrays, occupied.layout.position_dtype
    free_before = np.asarray(occupied.layout.offsets[:-1], np.int64) - np.asarray(occupied.bounds[:-1], np.int64)
    everywhere = np.concatenate([rank + before for rank, before in zip(ranks, free_before, strict=True)])
    rank = arrays.from_numpy(everywhere.astype(dtype))
    free_below = occupied.positions - arrays.arange(occupied.size, dtype)
    return rank + arrays.cast(arrays.searchsorted(free_below, rank, "right"), dtype)


def random_topology(layout: Layout, counts: Sequence[int] | Counts, random: Randomness, arrays: Arrays) -> Topology:
    """A topology of ``counts[i]`` uniformly random positions in tensor i."""
    nothing = Topology.of(layout, arrays.from_numpy(np.empty(0, layout.position_dtype)), arrays)
    return Topology.of(layout, random_free_positions(nothing, counts, random), arrays)
