"""One dense coordinate space for all sparse tensors of a network."""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np

from sparsecore.errors import InputError, unknown

_INT32_POSITIONS = 2**31


def _as_shapes(shapes: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(operator.index(side) for side in shape) for shape in shapes)
    except TypeError as error:
        raise InputError(f"a shape is a tuple of whole numbers ({error})") from None


def _as_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@attrs.frozen
class Layout:
    """Names and shapes of the sparse tensors, laid end to end (row-major) in one space of D positions.

    Attributes:
        names: the tensors' names, distinct, in the order in which they lie.
        shapes: their dense shapes; every tensor has at least one position.
    """

    names: tuple[str, ...] = attrs.field(converter=_as_names)
    shapes: tuple[tuple[int, ...], ...] = attrs.field(converter=_as_shapes)

    def __attrs_post_init__(self) -> None:
        if len(self.names) != len(self.shapes):
            raise InputError(f"a layout has a shape a name: {len(self.names)} names, {len(self.shapes)} shapes")
        if not self.names:
            raise InputError("a layout needs at least one sparse tensor; none was given")
        if len(set(self.names)) != len(self.names):
            raise InputError(f"tensor names must be distinct: {', '.join(self.names)}")
        if self.size >= 2**63:
            raise InputError(f"a layout has fewer than 2^63 positions; given {self.size}")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if not shape or any(side < 1 for side in shape):
                raise InputError(f"tensor {name!r} has the shape {shape}; it needs sides, each at least 1")

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> "Layout":
        """The layout of tensors given as ``{name: shape}``."""
        return cls(tuple(shapes), tuple(shapes.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Dense size D_i of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First position of each tensor, and D at the end."""
        offsets = [0]
        for size in self.sizes:
            offsets.append(offsets[-1] + size)
        return tuple(offsets)

    @property
    def size(self) -> int:
        """D, the number of positions."""
        return self.offsets[-1]

    @property
    def position_dtype(self) -> np.dtype[Any]:
        """int32 while every position fits, int64 beyond."""
        return np.dtype(np.int32 if self.size < _INT32_POSITIONS else np.int64)

    def index(self, name: str) -> int:
        """Which tensor has this name; an :class:`InputError` lists the names otherwise."""
        try:
            return self.names.index(name)
        except ValueError:
            raise InputError(unknown("sparse tensor", name, self.names)) from None

    def __len__(self) -> int:
        return len(self.names)
