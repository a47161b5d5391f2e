"""Passes over all weights on the host, in parts of whole tensors that caches can hold, and in several threads.

A pass over the weights of a large network as a whole reads and writes memory, and the system has to give its result new
pages. So parts are computed one after another, into one result for all. NumPy lets other threads of Python run while it
computes. No result depends on the parts or on the number of threads.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Counts, Host

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST = 1 << 16
"""The number of weights from which on a part is not joined with the tensor behind it."""

_MANY = 1 << 20
"""The number of weights from which on threads are worth being started."""


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], size: int, threads: int) -> list[Result]:
    """Call a function of each item, in several threads where there is much to do.

    Args:
        function: computes by NumPy; calls must not depend on each other.
        items: its arguments.
        size: how many entries all calls read together.
        threads: how many threads there are.

    Returns:
        The results in the order of the items.
    """
    if threads < 2 or size < _MANY:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:  # for one pass, as threads do not survive a fork
        return list(pool.map(function, items))


def parts_of(bounds: Sequence[int]) -> list[tuple[int, int]]:
    """Return parts of whole tensors, as the first tensor of each and the one behind its last.

    Args:
        bounds: where the weights of each tensor begin, and the number of all.
    """
    parts, first = [], 0
    for tensor in range(1, len(bounds)):
        if bounds[tensor] - bounds[first] >= _LEAST or tensor == len(bounds) - 1:
            parts.append((first, tensor))
            first = tensor
    return parts


def chosen(vector: NDArray[Any], mask: NDArray[np.bool_], bounds: Sequence[int], counts: Counts, host: Host) -> Array:
    """Return the entries of a vector at which a mask is true.

    Args:
        vector: one entry a weight.
        mask: one bool a weight.
        bounds: where the weights of each tensor begin, and the number of all.
        counts: the number of true entries of the mask in each tensor.
        host: of the backend.
    """
    ends = _ends(counts)
    out = np.empty(ends[-1], vector.dtype)

    def choose(part: tuple[int, int]) -> None:
        first, last = part
        own = slice(bounds[first], bounds[last])
        out[ends[first] : ends[last]] = vector[own][mask[own]]

    in_threads(choose, parts_of(bounds), len(vector), host.threads)
    return host.share(out)


def free_positions(
    occupied: NDArray[np.integer],
    bounds: Sequence[int],
    offsets: Sequence[int],
    ranks: Sequence[NDArray[np.int64]],
    host: Host,
) -> Array:
    """Return the free positions of these ranks, as :func:`sparsecore.engine.growth.free_positions` does.

    Args:
        occupied: the positions that are not free, ascending.
        bounds: where those of each tensor begin, and the number of all.
        offsets: the first position of each tensor, and the number of all.
        ranks: for each tensor ascending ranks, which count its free positions from 0.
        host: of the backend.
    """
    ends = _ends([len(one) for one in ranks])
    out = np.empty(ends[-1], occupied.dtype)

    def find(part: tuple[int, int]) -> None:
        first, last = part
        start = bounds[first]
        free_below = occupied[start : bounds[last]] - np.arange(start, bounds[last], dtype=occupied.dtype)
        for tensor in range(first, last):
            rank = (ranks[tensor] + (offsets[tensor] - bounds[tensor])).astype(occupied.dtype)
            own = free_below[bounds[tensor] - start : bounds[tensor + 1] - start]
            np.add(rank, np.searchsorted(own, rank, "right") + bounds[tensor], out=rank, casting="unsafe")
            out[ends[tensor] : ends[tensor + 1]] = rank

    in_threads(find, parts_of(bounds), len(occupied) + len(out), host.threads)
    return host.share(out)


def count_common(
    occupied: NDArray[np.integer], bounds: Sequence[int], positions: NDArray[np.integer], counts: Counts, host: Host
) -> int:
    """Return how many positions are among the occupied ones.

    Args:
        occupied: ascending.
        bounds: where those of each tensor begin, and the number of all.
        positions: ascending.
        counts: how many of these are in each tensor.
        host: of the backend.
    """
    ends = _ends(counts)

    def count(part: tuple[int, int]) -> int:
        first, last = part
        own, queries = occupied[bounds[first] : bounds[last]], positions[ends[first] : ends[last]]
        if not len(own):
            return 0
        found = np.searchsorted(own, queries)
        np.minimum(found, len(own) - 1, out=found)
        return int(np.count_nonzero(own[found] == queries))

    return sum(in_threads(count, parts_of(bounds), len(occupied) + len(positions), host.threads))


class Merging:
    """Where the entries of two ascending lists of positions, without common ones, stand in the list of both.

    Args:
        kept: the first positions.
        kept_counts: how many of them are in each tensor.
        grown: the other ones.
        grown_counts: likewise.
        host: of the backend.
    """

    def __init__(
        self,
        kept: NDArray[np.integer],
        kept_counts: Counts,
        grown: NDArray[np.integer],
        grown_counts: Counts,
        host: Host,
    ) -> None:
        self._kept, self._grown, self._host = _ends(kept_counts), _ends(grown_counts), host
        self._both = _ends(kept_counts + grown_counts)
        self._parts = parts_of(self._both)
        self._slots = np.empty(len(grown), np.int64)
        self._is_kept = np.ones(self._both[-1], np.bool_)

        def place(part: tuple[int, int]) -> None:
            first, last = part
            own = kept[self._kept[first] : self._kept[last]]
            others = slice(self._grown[first], self._grown[last])
            slots = np.searchsorted(own, grown[others])
            slots += np.arange(len(slots))
            self._slots[others] = slots
            self._is_kept[self._both[first] : self._both[last]][slots] = False

        in_threads(place, self._parts, self._both[-1], host.threads)

    def merge(self, dtype: Any, kept: Callable[[int, int], Any], grown: Any) -> Array:
        """Return the entries of both lists in the order of their positions.

        Args:
            dtype: of the entries.
            kept: returns those of the first list that belong to tensors from one up to, but without, another one.
            grown: those of the second list, or one number for all.
        """
        out = np.empty(self._both[-1], dtype)

        def fill(part: tuple[int, int]) -> None:
            first, last = part
            own, others = out[self._both[first] : self._both[last]], slice(self._grown[first], self._grown[last])
            own[self._is_kept[self._both[first] : self._both[last]]] = kept(first, last)
            own[self._slots[others]] = grown[others] if isinstance(grown, np.ndarray) else grown

        in_threads(fill, self._parts, len(out), self._host.threads)
        return self._host.share(out)


def _ends(counts: Sequence[int] | Counts) -> list[int]:
    """Return where the entries of each tensor begin, and the number of all."""
    return [0, *map(int, np.cumsum(counts))]
