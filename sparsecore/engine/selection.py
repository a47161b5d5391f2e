"""The smallest entries of an array in host memory, in time that grows with their number, where sorting takes more."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHORT = 1 << 15
"""Arrays of at most this length are partitioned as a whole."""

_SAMPLE = 1 << 13
"""How many entries tell about where the smallest ones end."""


def smallest_indices(array: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Return the indices of the smallest entries, those that a stable sort puts first.

    Of equal entries the lowest indices are taken, and NaN comes after all numbers.

    Args:
        array: one-dimensional, of any dtype that NumPy orders.
        count: how many indices to return, at most ``len(array)``.

    Returns:
        ``count`` indices, ascending.
    """
    if not 0 < count < len(array):
        return np.arange(min(max(count, 0), len(array)))
    chosen = None if len(array) <= _SHORT else _chosen_by_sample(array, count)
    return np.flatnonzero(_chosen(array, count) if chosen is None else chosen)


def _chosen(array: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Return which entries are among the smallest, ``0 < count < len(array)``."""
    last = np.partition(array, count - 1)[count - 1]
    # partition puts NaN last: if even the last one is NaN, all numbers are below it
    is_number = bool(last == last)  # noqa: PLR0124
    chosen: NDArray[np.bool_] = array < last if is_number else array == array  # noqa: PLR0124
    ties = array == last if is_number else ~chosen
    chosen[np.flatnonzero(ties)[: count - np.count_nonzero(chosen)]] = True
    return chosen


def _chosen_by_sample(array: NDArray[Any], count: int) -> NDArray[np.bool_] | None:
    """Return the same as :func:`_chosen`, or None where a sample of the entries has misled about the others."""
    sample = np.sort(array[:: _step(len(array) // _SAMPLE)])
    expected = count * len(sample) // len(array)
    # the rank of a random sample's entry is off by about the root of the expected one, or by that of its complement
    margin = 8 + 4 * math.isqrt(min(expected, len(sample) - expected))
    lowest, highest = expected - margin, expected + margin
    chosen = array < sample[lowest] if lowest >= 0 else np.zeros(len(array), np.bool_)
    doubtful = array <= sample[highest] if highest < len(sample) else np.ones(len(array), np.bool_)
    doubtful &= ~chosen
    missing = count - int(np.count_nonzero(chosen))
    if 2 * np.count_nonzero(doubtful) > len(array):  # as where most entries are equal: a copy would save nothing
        return None
    candidates = np.flatnonzero(doubtful)
    if not 0 < missing < len(candidates):
        return None
    chosen[candidates[_chosen(array[candidates], missing)]] = True
    return chosen


def _step(least: int) -> int:
    """Return a step of at least this size that visits all columns of nearly any matrix, whose scales may differ."""
    return next(step for step in range(max(1, least), least + 12) if math.gcd(step, 2 * 3 * 5 * 7) == 1)
