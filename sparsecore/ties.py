"""Weight tying by a hash (HashedNets; Chen et al. 2015): N values serve as the D entries of a larger tensor.

The hash is a function of the position alone, so that nothing of size D has to be kept. It is written in operators of
arrays of whole numbers, and gives the same on NumPy's, PyTorch's or any other.
"""

from typing import Any

import attrs

from sparsecore.randomness import Randomness

_MASK = 2**32 - 1
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
"""The multipliers of Wellons' 'lowbias32'. The second is taken modulo 2³², so that no product leaves 64 bits."""


@attrs.frozen
class Ties:
    """Which value each entry of a tensor is, and with which sign.

    Attributes:
        shape: the dense shape of the tensor, of fewer than 2³² positions.
        key: of the hash, below 2⁶²; tensors of other keys are tied in ways that have nothing to do with each other.
    """

    shape: tuple[int, ...]
    key: int

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], seed: int) -> "Ties":
        """The ties of the tensor of this name; another name or seed gives others."""
        return cls(shape, int(Randomness(seed).generator("ties", name).integers(2**62)))


def tied_places(positions: Any, count: int, key: int) -> tuple[Any, Any]:
    """The hash h and the sign ξ: the entry at position p is ξ(p)·values[h(p)].

    Each value is equally likely at each position, whatever it is at others: of N values for D positions, a share of
    about exp(-D/N) serves at none.

    Args:
        positions: row-major within the tensor, an int64 array of any library.
        count: how many values there are, below 2³¹.
        key: of the hash.

    Returns:
        Indices in [0, count) and signs, -1 or 1, both int64 arrays of the same library.
    """
    # what is mixed is a copy
    words = _mixed(_mixed(positions ^ (key & _MASK)) ^ (key >> 32))
    return (words * count) >> 32, 1 - 2 * (words & 1)


def _mixed(words: Any) -> Any:
    """A bijection of 32-bit words, each bit of which hangs on all bits of the argument; in place, where arrays can."""
    words ^= words >> 16
    words *= _FIRST
    words &= _MASK
    words ^= words >> 15
    words *= _SECOND
    words &= _MASK
    words ^= words >> 16
    return words
