"""What a model learns: named tensors with a start distribution that can be evaluated at any position."""

import math
from typing import Any, Literal, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.randomness import Randomness

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


def hash_slots(positions: Any, count: int, key: int) -> tuple[Any, Any]:
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


class Initializer(Protocol):
    """Start values as a function of (seed, tensor, position)."""

    def __call__(
        self, shape: tuple[int, ...], positions: NDArray[np.integer], random: Randomness
    ) -> NDArray[np.float64]:
        """The values at these positions (row-major) of a tensor of this dense shape."""
        ...


@attrs.frozen
class Constant:
    """The same value everywhere."""

    value: float

    def __call__(
        self,
        shape: tuple[int, ...],  # noqa: ARG002
        positions: NDArray[np.integer],
        random: Randomness,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """See :class:`Initializer`."""
        return np.full(len(positions), self.value)


@attrs.frozen
class HeNormal:
    """Normal with variance 2/fan (He et al. 2015); the fan is that of the dense tensor (out, in, kernel...)."""

    fan: Literal["in", "out"] = attrs.field(default="out", validator=attrs.validators.in_(("in", "out")))

    def __call__(
        self, shape: tuple[int, ...], positions: NDArray[np.integer], random: Randomness
    ) -> NDArray[np.float64]:
        """See :class:`Initializer`."""
        channels = shape[1] if self.fan == "in" else shape[0]
        fan = channels * math.prod(shape[2:])
        return random.normal_at(positions) * math.sqrt(2.0 / fan)


@attrs.frozen
class Parameter:
    """One tensor of a model.

    Attributes:
        name: its name, distinct within the model.
        shape: its dense shape; (out, in, height, width) for convolutions, (out, in) for linear layers.
        initial: its start values.
        sparse: whether it lies in the layout of sparse tensors.
        trained: False for running statistics, which the optimizer leaves alone.
        ties: where its entries serve as those of a larger tensor, which one is which; see :func:`tied`.
    """

    name: str
    shape: tuple[int, ...]
    initial: Initializer
    sparse: bool = False
    trained: bool = True
    ties: Ties | None = None


def batch_norm(name: str, channels: int) -> tuple[Parameter, ...]:
    """The four parameters of a batch norm: scale 1, shift 0, running mean 0 and running variance 1."""
    return (
        Parameter(f"{name}.scale", (channels,), Constant(1.0)),
        Parameter(f"{name}.shift", (channels,), Constant(0.0)),
        Parameter(f"{name}.mean", (channels,), Constant(0.0), trained=False),
        Parameter(f"{name}.variance", (channels,), Constant(1.0), trained=False),
    )


def bias(name: str, size: int) -> Parameter:
    """A bias that starts at zero."""
    return Parameter(name, (size,), Constant(0.0))


def tied(parameter: Parameter, count: int, seed: int) -> Parameter:
    """The parameter with all its entries taken, by a hash, from a vector of ``count`` values, which is what is learned.

    Args:
        parameter: of dense shape; the values start as its entries would.
        count: how many values there are, at least 1.
        seed: of the hash, apart from the run's.
    """
    ties = Ties.of(parameter.name, parameter.shape, seed)
    return attrs.evolve(parameter, shape=(count,), initial=_AsIn(parameter.shape, parameter.initial), ties=ties)


@attrs.frozen
class _AsIn:
    """Start values as in a tensor of another shape: the fan is that of the tensor that they serve in."""

    shape: tuple[int, ...]
    initial: Initializer

    def __call__(
        self,
        shape: tuple[int, ...],  # noqa: ARG002
        positions: NDArray[np.integer],
        random: Randomness,
    ) -> NDArray[np.float64]:
        """See :class:`Initializer`."""
        return self.initial(self.shape, positions, random)
