"""Between weights and units: strategies see a layout that counts units, backends one that counts weights.

A unit is there as a whole or not at all. To strategies it is one position; its value is the mean |w| of its weights,
its gradient the mean |∂w| of theirs. A unit of one weight keeps its signs. What a strategy starts a unit with, all its
weights get.
"""

import operator
from collections.abc import Sequence
from functools import cached_property, reduce
from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.arrays import Array, Arrays
from sparsecore.cuts import Cut
from sparsecore.errors import InputError
from sparsecore.gradient import Gradient
from sparsecore.layout import Layout
from sparsecore.reallocation import Reallocation
from sparsecore.shares import constant
from sparsecore.topology import Topology
from sparsecore.units import Sides, Units


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
            survives=arrays.shown(arrays.take(moved.survives, self._slots(topology, moved.before))),
            sources=arrays.shown(arrays.where(has_grown, topology.size, stayed)),
            values=values,
            pruned=constant(moved.pruned * self._sizes),
            grown=constant(moved.grown * self._sizes),
        )
        started = arrays.take(moved.values, unit)
        if moved.after.size == moved.before.size and after.size != topology.size:
            raise InputError(self._unequal())
        return attrs.evolve(whole, values=arrays.shown(arrays.where(has_grown, started, whole.carry(values))))

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
