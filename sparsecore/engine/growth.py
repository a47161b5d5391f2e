"""Growth: whole numbers shared out over tensors, and free positions found without building a mask.

The paper shares out l_i·K/L and leaves rounding and full tensors open. Here: largest remainder, capped by the room;
what a full tensor cannot take is shared out again among the others. The sum is exact, the result deterministic.

The free position of rank r lies between two sorted active ones: position p has p - (active positions below p) free
positions below it, so one ``searchsorted`` turns all ranks of a network into positions, in O(k log N).
"""

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine import host_parts
from sparsecore.engine.arrays import Array, Arrays, Counts, host_of
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError, NoRoomError


def shares(total: int, weights: Sequence[int] | Counts, room: Sequence[int] | Counts) -> Counts:
    """Share out ``total`` in proportion to ``weights``, at most ``room[i]`` to each.

    Entries below their room get their quota rounded down or up; of equal remainders the first is rounded up. If the
    weights of all that have room are zero, they share in proportion to their room.

    Args:
        total: the whole number to share out.
        weights: whole numbers of at least 0, one a tensor.
        room: the most that each tensor can get.

    Returns:
        int64, one number a tensor, ``total`` together.

    Raises:
        InputError: a number is negative or not whole.
        NoRoomError: the room of all together is less than ``total``.
    """
    wanted, space, (rest,) = _whole(weights), _whole(room), _whole([total])
    if rest > sum(space):
        raise NoRoomError(f"{rest} weights are to grow, but there are only {sum(space)} free positions")
    given = [0] * len(space)
    open_ = [i for i, free in enumerate(space) if free > 0]
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
    """Return whole numbers in exactly the proportion of these finite ones, as weights for :func:`shares`.

    Args:
        numbers: finite, one a tensor, such as sums of |w|; at least 0 for :func:`shares`.

    Returns:
        Python integers of any size, one a tensor: nothing is rounded.

    Raises:
        ValueError: a number is NaN.
        OverflowError: a number is infinite.
    """
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


def draw_ranks(generator: np.random.Generator, room: int, count: int) -> NDArray[np.int64]:
    """Draw distinct ranks, every subset equally likely, in O(count) memory.

    Args:
        generator: a NumPy generator.
        room: the ranks are 0 to room - 1.
        count: how many to draw, at most ``room``.

    Returns:
        int64, ascending.
    """
    if count == room:
        return np.arange(room)
    drawn = generator.choice(room, count, replace=False, shuffle=False)
    # shorter numbers are sorted in less time
    return np.sort(drawn.astype(np.int32)).astype(np.int64) if room < 2**31 else np.sort(drawn)


def random_free_positions(occupied: Topology, counts: Sequence[int] | Counts, random: Randomness) -> Array:
    """Draw uniformly random positions outside ``occupied``.

    The draw of each tensor is keyed by its name.

    Args:
        occupied: the positions that cannot be drawn.
        counts: how many to draw in each tensor, at most its room.
        random: the random numbers of this purpose.

    Returns:
        Distinct positions, ascending, in the layout's position dtype, on the backend.
    """
    threads = 1 if (host := host_of(occupied.arrays)) is None else host.threads
    return free_positions(occupied, random_ranks(occupied.layout.names, occupied.room, counts, random, threads))


def random_ranks(
    names: Sequence[str], room: Counts, counts: Sequence[int] | Counts, random: Randomness, threads: int = 1
) -> list[NDArray[np.int64]]:
    """Draw uniformly random ranks among the free positions of each tensor.

    Args:
        names: of the tensors, by which draws are keyed.
        room: the number of free positions of each.
        counts: how many to draw in each, at most its room.
        random: the random numbers of this purpose.
        threads: how many threads draw.

    Returns:
        Ascending ranks of each tensor.
    """

    def draw(tensor: tuple[str, int, int]) -> NDArray[np.int64]:
        name, free, count = tensor
        return draw_ranks(random.generator("growth", name), int(free), int(count)) if count else np.empty(0, np.int64)

    return host_parts.in_threads(draw, zip(names, room, counts, strict=True), int(sum(counts)), threads)


def free_positions(occupied: Topology, ranks: Sequence[NDArray[np.int64]]) -> Array:
    """Return the free positions of these ranks.

    Args:
        occupied: the positions that are not free.
        ranks: for each tensor ascending ranks, which count its free positions from 0.

    Returns:
        Ascending positions in the layout's position dtype, on the backend.
    """
    arrays, dtype = occupied.arrays, occupied.layout.position_dtype
    host = host_of(arrays)
    if host is not None:
        offsets = occupied.layout.offsets
        return host_parts.free_positions(occupied.host_positions, occupied.bounds, offsets, ranks, host)
    free_before = np.asarray(occupied.layout.offsets[:-1], np.int64) - np.asarray(occupied.bounds[:-1], np.int64)
    everywhere = np.concatenate([rank + before for rank, before in zip(ranks, free_before, strict=True)])
    rank = arrays.from_numpy(everywhere.astype(dtype))
    free_below = occupied.positions - arrays.arange(occupied.size, dtype)
    return rank + arrays.cast(arrays.searchsorted(free_below, rank, "right"), dtype)


def random_topology(layout: Layout, counts: Sequence[int] | Counts, random: Randomness, arrays: Arrays) -> Topology:
    """Draw a topology of uniformly random positions.

    Args:
        layout: the tensors.
        counts: how many positions each tensor has.
        random: the random numbers of this purpose; the draw of each tensor is keyed by its name.
        arrays: the operations of the backend that is to hold the positions.
    """
    nothing = Topology.of(layout, arrays.from_numpy(np.empty(0, layout.position_dtype)), arrays)
    return Topology.of(layout, random_free_positions(nothing, counts, random), arrays)
