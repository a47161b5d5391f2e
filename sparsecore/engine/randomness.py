"""Random numbers as functions of (seed, purpose, time, tensor).

There is no global state and no generator of a backend: a path of keys names the numbers, and the same path always gives
the same ones. Backends and ranks agree without communication, and a resumed run repeats the uninterrupted one.
"""

import hashlib
import json
import operator
import reprlib
from contextlib import suppress
from typing import Any, NewType

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError

Words = NDArray[np.uint64]

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_MASK = 2**64 - 1
_CHUNK = 1 << 14  # the temporaries of a chunk stay in cache, and memory stays small for any number of positions


def philox_words(positions: NDArray[np.integer], key: int) -> tuple[Words, Words]:
    """Return the first two words of each position's Philox block: two uint64 vectors as long as ``positions``.

    This is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with the position as the
    counter: the words are those that ``np.random.Philox(key=key, counter=position)`` draws first.

    Args:
        positions: (n,), at least 0, of any integer dtype.
        key: 128 bits; the low 64 are the first word of Philox's key.
    """
    first = np.empty(len(positions), np.uint64)
    second = np.empty(len(positions), np.uint64)
    for start in range(0, len(positions), _CHUNK):
        part = slice(start, start + _CHUNK)
        first[part], second[part] = _block(positions[part].astype(np.uint64), key & _MASK, key >> 64)
    return first, second


def _block(positions: Words, key0: int, key1: int) -> tuple[Words, Words]:
    counter0 = positions + np.uint64(1)  # NumPy's generator increments its counter before the first block
    counter1 = counter2 = counter3 = np.zeros_like(counter0)
    for _ in range(10):
        high0, low0 = _multiply(counter0, _MULTIPLIERS[0])
        high1, low1 = _multiply(counter2, _MULTIPLIERS[1])
        counter0, counter2 = high1 ^ counter1 ^ np.uint64(key0), high0 ^ counter3 ^ np.uint64(key1)
        counter1, counter3 = low1, low0
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return counter0, counter1


def _multiply(a: Words, b: int) -> tuple[Words, Words]:
    """Return the high and the low 64 bits of a·b, computed from 32-bit halves."""
    half, low_half = np.uint64(32), np.uint64(0xFFFFFFFF)
    b_high, b_low = np.uint64(b >> 32), np.uint64(b & 0xFFFFFFFF)
    a_high, a_low = a >> half, a & low_half
    cross = a_high * b_low + ((a_low * b_low) >> half)
    middle = (cross & low_half) + a_low * b_high
    return a_high * b_high + (cross >> half) + (middle >> half), a * np.uint64(b)


Key = str | int


Seed = NewType("Seed", int)
"""A whole number that :func:`as_seed` has checked."""

LARGEST_SEED = 2**53
"""Whole numbers up to here are exact in every format that a seed is written to."""


def as_seed(given: Any) -> Seed:
    """Check a seed.

    Args:
        given: a whole number of Python or NumPy, from 0 to :data:`LARGEST_SEED`.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(given, bool):
        with suppress(TypeError):
            seed = operator.index(given)
            if 0 <= seed <= LARGEST_SEED:
                return Seed(seed)
    raise InputError(f"a seed is a whole number from 0 to {LARGEST_SEED}; given {_shown(given)}")


def _shown(given: Any) -> str:
    try:
        return reprlib.repr(given)
    except ValueError:  # Python writes no numbers of thousands of digits
        return "a number of thousands of digits"


@attrs.frozen
class Randomness:
    """A node in the tree of all random numbers of one seed.

    Attributes:
        seed: the run's seed.
        path: the keys from the root to this node.
    """

    seed: Seed = attrs.field(converter=as_seed)
    path: tuple[Key, ...] = ()

    @property
    def root(self) -> "Randomness":
        """The root of the tree, for numbers that must not depend on the time at which they are drawn."""
        return Randomness(self.seed)

    def child(self, *keys: Key) -> "Randomness":
        """Return the node below this one that the keys name.

        Args:
            keys: what the numbers are for, as the purpose, an update's number or a tensor's name. The keys 1 and "1"
                differ.
        """
        return attrs.evolve(self, path=self.path + keys)

    def generator(self, *keys: Key) -> np.random.Generator:
        """Return a new NumPy generator for the numbers that the keys name; equal keys give equal numbers.

        Args:
            keys: appended to the path of this node; none for the numbers of the node itself.

        Returns:
            A Philox generator at its beginning, so that calling this twice repeats the numbers.
        """
        return np.random.Generator(np.random.Philox(key=self._philox_key(*keys)))

    def normal_at(self, positions: NDArray[np.integer], *keys: Key) -> NDArray[np.float64]:
        """Return standard normal numbers, one a position; each is a function of its position alone (Box & Muller 1958).

        Any initial value can so be drawn again without drawing those of the whole dense tensor.

        Args:
            positions: (n,), at least 0, in any order, of any integer dtype.
            keys: appended to the path of this node.

        Returns:
            float64, (n,).
        """
        words = philox_words(positions, self._philox_key(*keys))
        radius = np.sqrt(-2.0 * np.log(_unit_interval(words[0], open_at_zero=True)))
        return np.asarray(radius * np.cos(2.0 * np.pi * _unit_interval(words[1])))

    def uniform_at(self, positions: NDArray[np.integer], *keys: Key) -> NDArray[np.float64]:
        """Return numbers uniform in [0, 1), one a position; each is a function of its position alone.

        Args:
            positions: (n,), at least 0, in any order, of any integer dtype.
            keys: appended to the path of this node.

        Returns:
            float64, (n,), multiples of 2⁻⁵³.
        """
        return _unit_interval(philox_words(positions, self._philox_key(*keys))[0])

    def signs_at(self, positions: NDArray[np.integer], *keys: Key) -> NDArray[np.int8]:
        """Return fair signs, -1 or +1, one a position; each is a function of its position alone.

        Args:
            positions: (n,), at least 0, in any order, of any integer dtype.
            keys: appended to the path of this node.

        Returns:
            int8, (n,).
        """
        return np.where(self.uniform_at(positions, *keys) < 0.5, np.int8(-1), np.int8(1))

    def _philox_key(self, *keys: Key) -> int:
        name = json.dumps([self.seed, *self.path, *keys], ensure_ascii=True).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")


def _unit_interval(words: NDArray[np.uint64], *, open_at_zero: bool = False) -> NDArray[np.float64]:
    """Return the top 53 bits of each word as a number in [0, 1), or in (0, 1] for a logarithm."""
    return ((words >> np.uint64(11)).astype(np.float64) + float(open_at_zero)) * 2.0**-53
