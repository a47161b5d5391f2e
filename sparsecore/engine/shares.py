"""Sharing out whole numbers: the paper's l_i·K/L, exactly.

The paper leaves rounding and tensors with too little room open. Here: largest remainder, capped by the room, what a
full tensor cannot take shared out again among the others. The sum is exact and the result deterministic.
"""

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError, NoRoomError

Counts = NDArray[np.int64]


def constant(counts: Counts) -> Counts:
    """The same counts, which refuse to be written to."""
    counts.flags.writeable = False
    return counts


def shares(total: int, weights: Sequence[int] | Counts, room: Sequence[int] | Counts) -> Counts:
    """``total`` things shared out in proportion to ``weights``, at most ``room[i]`` to each.

    Tensors below their room get their quota rounded down or up; ties in the remainder go to the first. Where all that
    have room weigh nothing, they share in proportion to their room.

    Raises:
        InputError: a number is negative or not whole.
        NoRoomError: the room of all together is less than ``total``.
    """
    wanted, space, (rest,) = _whole(weights), _whole(room), _whole([total])
    if rest > sum(space):
        raise NoRoomError(f"{rest} weights are to grow, but there are only {sum(space)} free positions")
    given = [0] * len(space)
    open_ = [i for i, places in enumerate(space) if places > 0]
    while open_ and rest:
        if not any(wanted[i] for i in open_):
            wanted = space
        whole = sum(wanted[i] for i in open_)
        full = [i for i in open_ if wanted[i] * rest >= space[i] * whole]
        if not full:
            for i, share in zip(open_, _largest_remainder(rest, [wanted[i] for i in open_]), strict=True):
                given[i] = share
            break
        for i in full:
            given[i] = space[i]
        rest -= sum(space[i] for i in full)
        open_ = [i for i in open_ if i not in set(full)]
    return np.array(given, np.int64)


def whole_numbers(numbers: Sequence[float]) -> list[int]:
    """Whole numbers in exactly the proportion of these finite ones, to share by."""
    ratios = [float(number).as_integer_ratio() for number in numbers]
    # the denominators are powers of two: the largest is a multiple of the others
    common = max((denominator for _, denominator in ratios), default=1)
    return [numerator * (common // denominator) for numerator, denominator in ratios]


def _whole(given: Sequence[int] | Counts) -> list[int]:
    try:
        numbers = [operator.index(number) for number in given]
    except TypeError:
        raise InputError(f"shares are of whole numbers; given {given}") from None
    if any(number < 0 for number in numbers):
        raise InputError(f"shares are of numbers of at least 0; given {given}")
    return numbers


def _largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    # Python's integers: a weight times the total may be beyond 64 bits
    whole = sum(weights)
    quotas = [divmod(weight * total, whole) for weight in weights]
    given = [quotient for quotient, _ in quotas]
    by_remainder = sorted(range(len(weights)), key=lambda i: -quotas[i][1])
    for i in by_remainder[: total - sum(given)]:
        given[i] += 1
    return given
