"""The parameters of a model: named tensors whose initial values can be computed at any position."""

import math
from typing import Any, Literal, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.randomness import Randomness
from sparsecore.engine.side_orders import SideOrder

_MASK = 2**32 - 1
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
"""The multipliers of Wellons' 'lowbias32'. The second is taken modulo 2³², so that no product leaves 64 bits."""


@attrs.frozen
class Ties:
    """How the entries of a tensor share the values of a shorter vector, by a hash (HashedNets).

    Attributes:
        shape: the dense shape of the tensor, of fewer than 2³² positions.
        key: the key of the hash, below 2⁶²; the ties of different keys are independent.
    """

    shape: tuple[int, ...]
    key: int

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], seed: int) -> "Ties":
        """The ties of a tensor, which depend on its name and the seed.

        Args:
            name: the name of the tensor.
            shape: its dense shape.
            seed: the seed of the hash.
        """
        return cls(shape, int(Randomness(seed).generator("ties", name).integers(2**62)))


def hash_slots(positions: Any, count: int, key: int) -> tuple[Any, Any]:
    """Hash positions to slots h and signs ξ: the entry at position p is ξ(p)·values[h(p)].

    Each slot is equally likely at each position, independently of other positions: of N values for D positions, a
    fraction of about exp(-D/N) is used by no position.

    Args:
        positions: row-major positions within the tensor, an int64 array of any library.
        count: the number of values, below 2³¹.
        key: the key of the hash.

    Returns:
        Slots in [0, count) and signs, -1 or 1, both int64 arrays of the same library and shape as ``positions``.
    """
    # the mixing works in place, on a copy
    words = _mixed(_mixed(positions ^ (key & _MASK)) ^ (key >> 32))
    return (words * count) >> 32, 1 - 2 * (words & 1)


def _mixed(words: Any) -> Any:
    """Mix 32-bit words bijectively, so that each bit depends on all bits; in place for arrays that can be changed."""
    words ^= words >> 16
    words *= _FIRST
    words &= _MASK
    words ^= words >> 15
    words *= _SECOND
    words &= _MASK
    words ^= words >> 16
    return words


class Initializer(Protocol):
    """Computes initial values as a function of (seed, tensor, position)."""

    def __call__(
        self, shape: tuple[int, ...], positions: NDArray[np.integer], random: Randomness
    ) -> NDArray[np.float64]:
        """The initial values at some positions of a tensor.

        Args:
            shape: the dense shape of the tensor.
            positions: row-major positions within it, (count,).
            random: the random numbers of this tensor.

        Returns:
            One value for each position, float64, (count,).
        """
        ...


@attrs.frozen
class Constant:
    """The same value everywhere.

    Attributes:
        value: a finite number, such as 0 for shifts and 1 for scales.
    """

    value: float

    def __call__(
        self,
        shape: tuple[int, ...],  # noqa: ARG002
        positions: NDArray[np.integer],
        random: Randomness,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """The value, once for each position."""
        return np.full(len(positions), self.value)


@attrs.frozen
class HeNormal:
    """Normal with variance 2/fan (He et al. 2015); the fan is that of the dense tensor (out, in, kernel...).

    Attributes:
        fan: 'in' for in·kernel, which keeps the variance of activations; 'out' for out·kernel, that of gradients.
    """

    fan: Literal["in", "out"] = attrs.field(default="out", validator=attrs.validators.in_(("in", "out")))

    def __call__(
        self, shape: tuple[int, ...], positions: NDArray[np.integer], random: Randomness
    ) -> NDArray[np.float64]:
        """Normal values, scaled by the fan."""
        channels = shape[1] if self.fan == "in" else shape[0]
        fan = channels * math.prod(shape[2:])
        return random.normal_at(positions) * math.sqrt(2.0 / fan)


@attrs.frozen
class FanInUniform:
    """Uniform within 1/√fan, the default of ``torch.nn.Linear``; the fan is in·kernel of the dense tensor."""

    def __call__(
        self, shape: tuple[int, ...], positions: NDArray[np.integer], random: Randomness
    ) -> NDArray[np.float64]:
        """Values in [-1/√fan, 1/√fan), of variance 1/(3·fan)."""
        return (2.0 * random.uniform_at(positions) - 1.0) / math.sqrt(math.prod(shape[1:]))


@attrs.frozen
class Parameter:
    """One tensor of a model.

    Attributes:
        name: its name, distinct within the model.
        shape: its dense shape; (out, in, height, width) for convolutions, (out, in) for linear layers.
        initial: computes its initial values.
        sparse: whether it is one of the sparse tensors, whose active positions are the topology.
        trained: False for running statistics, which the optimizer does not change.
        ties: how a larger tensor is made of its entries, if it is; see :func:`tied`.
        side_order: that of its sides, where it is not (out, in, kernel).
    """

    name: str
    shape: tuple[int, ...]
    initial: Initializer
    sparse: bool = False
    trained: bool = True
    ties: Ties | None = None
    side_order: SideOrder | None = None


def batch_norm(name: str, channels: int) -> tuple[Parameter, ...]:
    """The four parameters of a batch norm, (channels,) each: scale 1, shift 0, running mean 0, running variance 1.

    Args:
        name: the prefix of their names.
        channels: the number of channels or features.
    """
    return (
        Parameter(f"{name}.scale", (channels,), Constant(1.0)),
        Parameter(f"{name}.shift", (channels,), Constant(0.0)),
        Parameter(f"{name}.mean", (channels,), Constant(0.0), trained=False),
        Parameter(f"{name}.variance", (channels,), Constant(1.0), trained=False),
    )


def bias(name: str, size: int) -> Parameter:
    """A bias of shape (size,) that is initially zero.

    Args:
        name: the parameter's full name, such as 'fc.bias'.
        size: the number of outputs.
    """
    return Parameter(name, (size,), Constant(0.0))


def tied(parameter: Parameter, count: int, seed: int) -> Parameter:
    """Tie all entries of a parameter, by a hash, to a vector of ``count`` values, which is learned in its place.

    Args:
        parameter: the parameter in its dense shape; the values are initialized as its entries would be.
        count: the number of values, at least 1.
        seed: the seed of the hash, which is independent of the run's.

    Returns:
        The parameter of shape (count,), with ties.
    """
    ties = Ties.of(parameter.name, parameter.shape, seed)
    return attrs.evolve(parameter, shape=(count,), initial=_AsIn(parameter.shape, parameter.initial), ties=ties)


@attrs.frozen
class _AsIn:
    """Initial values as in a tensor of another shape, whose fan they are scaled by."""

    shape: tuple[int, ...]
    initial: Initializer

    def __call__(
        self,
        shape: tuple[int, ...],  # noqa: ARG002
        positions: NDArray[np.integer],
        random: Randomness,
    ) -> NDArray[np.float64]:
        """The values of the other tensor at these positions."""
        return self.initial(self.shape, positions, random)
