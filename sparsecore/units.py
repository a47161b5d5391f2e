"""Units: what is pruned and grown as one. Single weights, whole kernels, or blocks of a matrix.

The full DPR paper (Mostafa & Wang 2019) also moves whole 3x3 kernels; blocks are what hardware likes.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import attrs

from sparsecore.errors import InputError

Sides = tuple[int, ...]


class Units(Protocol):
    """How tensors are cut into units. ``str`` gives the name that :func:`as_units` reads."""

    def of(self, shape: Sides) -> Sides:
        """The sides of a unit in a tensor of this dense shape, as many as the tensor has."""
        ...


@attrs.frozen
class SingleWeights:
    """Every weight is a unit."""

    def __str__(self) -> str:
        return "weights"

    def of(self, shape: Sides) -> Sides:
        """One weight."""
        return (1,) * len(shape)


@attrs.frozen
class Kernels:
    """Every kernel of a convolution, the weights between one input and one output channel, is a unit."""

    def __str__(self) -> str:
        return "kernels"

    def of(self, shape: Sides) -> Sides:
        """All sides behind the two of the channels; in a matrix one weight."""
        return (*(1 for _ in shape[:2]), *shape[2:])


@attrs.frozen
class Blocks:
    """Blocks of the first two sides, (out, in) in most layers; each place of a kernel has blocks of its own.

    Attributes:
        rows: b1, of the first side.
        columns: b2, of the second side; of the only one, in a vector.
    """

    rows: int = attrs.field(validator=attrs.validators.ge(1))
    columns: int = attrs.field(validator=attrs.validators.ge(1))

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    def of(self, shape: Sides) -> Sides:
        """b1 by b2."""
        block = (self.rows, self.columns) if len(shape) > 1 else (self.columns,)
        return (*block, *(1 for _ in shape[2:]))


_BY_NAME: Mapping[str, Units] = MappingProxyType({"weights": SingleWeights(), "kernels": Kernels()})
_BLOCKS = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})", re.ASCII)


def as_units(given: object) -> Units:
    """The units of this name, 'weights', 'kernels' or such as '4x4'; given units as they are.

    Raises:
        InputError: there are no such units.
    """
    if callable(getattr(given, "of", None)):
        return given  # type: ignore[return-value]
    name = str(given)
    blocks = _BLOCKS.fullmatch(name)
    if blocks:
        return Blocks(*map(int, blocks.groups()))
    if name not in _BY_NAME:
        raise InputError(f"units are {', '.join(_BY_NAME)} or blocks such as 4x4; given {given!r}")
    return _BY_NAME[name]
