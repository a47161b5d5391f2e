"""Units: what is pruned and grown as one. Single weights, whole kernels, or blocks of a matrix.

The full DPR paper (Mostafa & Wang 2019) also moves whole 3x3 kernels; blocks are what hardware likes.
"""

import itertools
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce
from types import MappingProxyType
from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, Gradient
from sparsecore.engine.layout import Layout
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.shares import constant
from sparsecore.engine.topology import Topology
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


@attrs.frozen
class Cut:
    """A tensor that is cut into equal blocks. All positions are counted from the tensor's first one, row-major.

    Attributes:
        shape: the dense shape.
        block: the sides of a unit; each divides the tensor's.
    """

    shape: Sides
    block: Sides

    @cached_property
    def counts(self) -> Sides:
        """Units along each side."""
        return tuple(side // part for side, part in zip(self.shape, self.block, strict=True))

    @cached_property
    def size(self) -> int:
        """Weights in a unit."""
        return math.prod(self.block)

    def units(self, weights: Array) -> Array:
        """The unit that each weight belongs to."""
        unit = weights * 0
        for side, part, stride, pace in self._sides():
            unit = unit + weights // stride % side // part * pace
        return unit

    def weights(self, units: Array) -> list[Array]:
        """The first weight of each unit, the second of each, and so on: as many vectors as a unit has weights."""
        first = units * 0
        for side, part, stride, pace in self._sides():
            first = first + units // pace % (side // part) * (part * stride)
        inside = itertools.product(*map(range, self.block))
        return [first + sum(map(operator.mul, place, _strides(self.shape))) for place in inside]

    def _sides(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each side: its length, a unit's part of it, and how far apart its weights and its units are counted."""
        return zip(self.shape, self.block, _strides(self.shape), _strides(self.counts), strict=True)


def _strides(shape: Sides) -> Sides:
    return tuple(math.prod(shape[side + 1 :]) for side in range(len(shape)))


class Grouping(Protocol):
    """How a layout's weights form units."""

    @property
    def layout(self) -> Layout:
        """One position a unit."""
        ...

    @property
    def largest(self) -> int:
        """Weights in the largest unit."""
        ...

    def units(self, topology: Topology) -> Topology:
        """The units that these weights make up."""
        ...

    def units_with(self, weights: Topology) -> Topology:
        """The units that have any of these weights."""
        ...

    def weights(self, units: Topology) -> Topology:
        """All weights of these units."""
        ...

    def values(self, values: Array, topology: Topology) -> Array:
        """One value a unit, from one value a weight of ``topology``."""
        ...

    def gradient(self, gradient: Gradient, arrays: Arrays) -> Gradient:
        """One entry a unit, there or not, from one a position."""
        ...

    def spread(self, moved: Reallocation, topology: Topology, values: Array) -> Reallocation:
        """What becomes of the weights of ``topology`` where their units move so."""
        ...


def grouping(layout: Layout, units: Units) -> Grouping:
    """The grouping of a layout's weights.

    Raises:
        InputError: a tensor is not made of whole units; the sentence names it.
    """
    cuts = [_cut(name, shape, units) for name, shape in zip(layout.names, layout.shapes, strict=True)]
    return Grouped(layout, cuts) if any(cut.size > 1 for cut in cuts) else Ungrouped(layout)


def _cut(name: str, shape: Sides, units: Units) -> Cut:
    block = units.of(shape)
    if any(side % part for side, part in zip(shape, block, strict=True)):
        raise InputError(f"the tensor {name!r} of shape {shape} is not made of whole units of shape {block}")
    return Cut(shape, block)


def trouble_with_units(topology: Topology, grouping: Grouping) -> str | None:
    """Whether every unit is there as a whole or not at all, as the end of a sentence."""
    whole = grouping.weights(grouping.units(topology))
    if whole.size == topology.size and not len(topology.arrays.nonzero(whole.positions != topology.positions)):
        return None
    return "one with parts of units"


@attrs.frozen
class Ungrouped:
    """Every weight is a unit. See :class:`Grouping`."""

    layout: Layout
    largest: int = 1

    def units(self, topology: Topology) -> Topology:
        """They themselves."""
        return topology

    def units_with(self, weights: Topology) -> Topology:
        """They themselves."""
        return weights

    def weights(self, units: Topology) -> Topology:
        """They themselves."""
        return units

    def values(self, values: Array, topology: Topology) -> Array:  # noqa: ARG002
        """They themselves."""
        return values

    def gradient(self, gradient: Gradient, arrays: Arrays) -> Gradient:  # noqa: ARG002
        """The same."""
        return gradient

    def spread(self, moved: Reallocation, topology: Topology, values: Array) -> Reallocation:  # noqa: ARG002
        """The same."""
        return moved


@attrs.frozen(eq=False)
class Grouped:
    """Units of several weights. See :class:`Grouping`.

    Attributes:
        dense: the layout of the weights.
        cuts: how each tensor is cut.
    """

    dense: Layout
    cuts: Sequence[Cut]

    @cached_property
    def layout(self) -> Layout:
        """One position a unit."""
        return Layout(self.dense.names, [cut.counts for cut in self.cuts])

    @cached_property
    def largest(self) -> int:
        """Weights in the largest unit."""
        return max(cut.size for cut in self.cuts)

    def units(self, topology: Topology) -> Topology:
        """Every unit once, though all its weights name it."""
        arrays, dtype = topology.arrays, self.layout.position_dtype
        once = [arrays.sort(units)[:: cut.size] for cut, units in zip(self.cuts, self._named(topology), strict=True)]
        counts = constant(-(-topology.counts // self._sizes))  # as many as the slices have, of parts of units too
        return Topology.of(self.layout, arrays.cast(arrays.concatenate(once), dtype), arrays, counts)

    def units_with(self, weights: Topology) -> Topology:
        """Every unit once, of which there is a weight."""
        arrays = weights.arrays
        named = np.unique(arrays.to_numpy(arrays.concatenate(self._named(weights))))
        return Topology.of(self.layout, arrays.from_numpy(named.astype(self.layout.position_dtype)), arrays)

    def weights(self, units: Topology) -> Topology:
        """All weights of these units."""
        arrays, dtype = units.arrays, self.dense.position_dtype
        members = [
            weights + offset
            for cut, own, offset in zip(self.cuts, _within_tensors(units), self.dense.offsets, strict=False)
            for weights in cut.weights(arrays.cast(own, dtype))
        ]
        counts = constant(units.counts * self._sizes)
        return Topology.of(self.dense, arrays.sort(arrays.concatenate(members)), arrays, counts)

    def values(self, values: Array, topology: Topology) -> Array:
        """The mean |w| of each."""
        arrays, bounds = topology.arrays, topology.bounds
        means = []
        for cut, units, first, last in zip(self.cuts, self._named(topology), bounds[:-1], bounds[1:], strict=True):
            # a unit's weights end up side by side, in the order of their positions
            ordered = arrays.take(values[first:last], arrays.argsort(units))
            means.append(_mean([ordered[place :: cut.size] for place in range(cut.size)]))
        return arrays.concatenate(means)

    def gradient(self, gradient: Gradient, arrays: Arrays) -> Gradient:
        """The mean |∂w| of each."""

        def of_units(name: str) -> Array:
            tensor, dense = self.dense.index(name), gradient(name)
            units = arrays.arange(self.layout.sizes[tensor], self.dense.position_dtype)
            return _mean([arrays.take(dense, weights) for weights in self.cuts[tensor].weights(units)])

        return of_units

    def spread(self, moved: Reallocation, topology: Topology, values: Array) -> Reallocation:
        """Weights go and come with their units.

        Raises:
            InputError: as many units as before are other than as many weights.
        """
        arrays, after = topology.arrays, self.weights(moved.after)
        unit = self._slots(after, moved.after)
        has_grown = arrays.take(moved.sources == moved.before.size, unit)
        stayed = arrays.searchsorted(topology.positions, after.positions, "left")
        whole = Reallocation(
            before=topology,
            after=after,
            survives=arrays.readonly(arrays.take(moved.survives, self._slots(topology, moved.before))),
            sources=arrays.readonly(arrays.where(has_grown, topology.size, stayed)),
            values=values,
            pruned=constant(moved.pruned * self._sizes),
            grown=constant(moved.grown * self._sizes),
        )
        started = arrays.take(moved.values, unit)
        if moved.after.size == moved.before.size and after.size != topology.size:
            raise InputError(self._unequal())
        return attrs.evolve(whole, values=arrays.readonly(arrays.where(has_grown, started, whole.carry(values))))

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """How many weights a unit of each tensor has."""
        return np.array([cut.size for cut in self.cuts], np.int64)

    def _unequal(self) -> str:
        sizes = [f"{cut.size} in {name!r}" for name, cut in zip(self.dense.names, self.cuts, strict=True)]
        return (
            "the strategy moves units between tensors, which changes the number of weights as units differ in size "
            f"(weights a unit: {', '.join(sizes)}); sparsify tensors of one size of unit, or move within tensors"
        )

    def _named(self, topology: Topology) -> list[Array]:
        """Of each tensor, the unit that each weight belongs to, as a position in the layout of units."""
        cast, dtype = topology.arrays.cast, self.layout.position_dtype
        return [
            cast(cut.units(weights) + offset, dtype)
            for cut, weights, offset in zip(self.cuts, _within_tensors(topology), self.layout.offsets, strict=False)
        ]

    def _slots(self, topology: Topology, units: Topology) -> Array:
        """Which slot of ``units`` each weight belongs to."""
        named = topology.arrays.concatenate(self._named(topology))
        return topology.arrays.searchsorted(units.positions, named, "left")


def _within_tensors(topology: Topology) -> list[Array]:
    """The positions of each tensor, counted from its first one."""
    bounds, offsets = topology.bounds, topology.layout.offsets
    return [
        topology.positions[first:last] - offset
        for first, last, offset in zip(bounds[:-1], bounds[1:], offsets, strict=False)
    ]


def _mean(entries: Sequence[Array]) -> Array:
    """The mean magnitude, added up in this order on every backend; a single entry as it is."""
    return reduce(operator.add, map(abs, entries)) / len(entries) if len(entries) > 1 else entries[0]
