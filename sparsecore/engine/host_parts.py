"""Passes over all weights on the host, in parts of whole tensors that caches can hold, and in several threads.

A pass over the weights of a large network as a whole reads and writes memory, and the system has to give its result new
pages. So parts are computed one after another, into one result for all. NumPy lets other threads of Python run while it
computes. No result depends on the parts or on the number of threads.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Counts, Host
from sparsecore.engine.selection import smallest_indices

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


def largest_free(
    occupied: NDArray[np.integer],
    bounds: Sequence[int],
    offsets: Sequence[int],
    counts: Counts,
    scores: Callable[[int], NDArray[Any]],
    host: Host,
) -> Array:
    """Return the free positions with the largest |score|, as :func:`sparsecore.toolbox.ranking.largest_free` does.

    Args:
        occupied: the positions that are not free, ascending.
        bounds: where those of each tensor begin, and the number of all.
        offsets: the first position of each tensor, and the number of all.
        counts: how many are to be found in each tensor.
        scores: returns one number for each position of a tensor; one thread calls it at a time.
        host: of the backend.
    """
    ends = _ends(counts)
    out = np.empty(ends[-1], occupied.dtype)
    scoring = Lock()

    def find(tensor: int) -> None:
        if not counts[tensor]:
            return
        with scoring:
            own = scores(tensor)
        ranks = np.abs(own)
        np.negative(ranks, out=ranks)
        np.copyto(ranks, 1, where=np.isnan(ranks))
        ranks[occupied[bounds[tensor] : bounds[tensor + 1]] - offsets[tensor]] = 2
        found = smallest_indices(ranks, int(counts[tensor]))
        out[ends[tensor] : ends[tensor + 1]] = found + offsets[tensor]

    in_threads(find, range(len(counts)), offsets[-1], host.threads)
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
    """Where the weights after a reallocation come from: those that survive and those that grow, in ascending order.

    Args:
        before: the positions before it, ascending, (N,).
        bounds: where those of each tensor begin, and the number of all.
        survives: whether each of them survives, bool, (N,).
        kept: the positions that survive.
        kept_counts: how many of them are in each tensor.
        grown: the positions that grow, none of them among those that survive.
        grown_counts: how many of them are in each tensor.
        host: of the backend.

    Attributes:
        sources: for each slot after it the slot before; N where a weight grows; int64.
        grown_slots: the slots after it of the weights that grow, ascending, int64.
    """

    def __init__(
        self,
        before: NDArray[np.integer],
        bounds: Sequence[int],
        survives: NDArray[np.bool_],
        kept: NDArray[np.integer],
        kept_counts: Counts,
        grown: NDArray[np.integer],
        grown_counts: Counts,
        host: Host,
    ) -> None:
        kept_ends, self._grown, self._host = _ends(kept_counts), _ends(grown_counts), host
        self._both = _ends(kept_counts + grown_counts)
        self._parts = parts_of(self._both)
        self._before, self._grown_positions = before, grown
        self.grown_slots = np.empty(len(grown), np.int64)
        self.sources = np.empty(self._both[-1], np.int64)

        def place(part: tuple[int, int]) -> None:
            first, last = part
            others = slice(self._grown[first], self._grown[last])
            slots = np.searchsorted(kept[kept_ends[first] : kept_ends[last]], grown[others])
            slots += np.arange(len(slots))
            own = self.sources[self._both[first] : self._both[last]]
            is_kept = np.ones(len(own), np.bool_)
            is_kept[slots] = False
            own[is_kept] = np.flatnonzero(survives[bounds[first] : bounds[last]]) + bounds[first]
            own[slots] = len(before)
            self.grown_slots[others] = slots + self._both[first]

        in_threads(place, self._parts, self._both[-1], host.threads)

    def positions(self) -> Array:
        """Return the positions after the reallocation, in the dtype of those before it."""
        return self.merge(self._before, self._grown_positions)

    def carry(self, entries: NDArray[Any]) -> Array:
        """Return the entries of all weights after the reallocation, zero for those that grow.

        Args:
            entries: those of the weights before it, N entries or rows.
        """
        return self.merge(entries, np.zeros((len(self.grown_slots), *entries.shape[1:]), entries.dtype))

    def merge(self, entries: NDArray[Any], grown: NDArray[Any]) -> Array:
        """Return the entries of all weights after the reallocation.

        Args:
            entries: those of the weights before it, N entries or rows.
            grown: those of the weights that grow, in the order of their positions.

        Returns:
            In the dtype of ``entries``.
        """
        out = np.empty((self._both[-1], *entries.shape[1:]), entries.dtype)

        def fill(part: tuple[int, int]) -> None:
            first, last = part
            own, others = slice(self._both[first], self._both[last]), slice(self._grown[first], self._grown[last])
            if len(entries):  # a weight that grows first takes the last entry, which is then replaced
                np.take(entries, self.sources[own], axis=0, out=out[own], mode="clip")
            out[self.grown_slots[others]] = grown[others]

        in_threads(fill, self._parts, len(out), self._host.threads)
        return self._host.share(out)


def _ends(counts: Sequence[int] | Counts) -> list[int]:
    """Return where the entries of each tensor begin, and the number of all."""
    return [0, *map(int, np.cumsum(counts))]
