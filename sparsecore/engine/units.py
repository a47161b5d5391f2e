"""Units, which are pruned and grown as one: single weights, whole kernels, or blocks of a matrix.

The full DPR paper (Mostafa & Wang 2019) also moves whole 3x3 kernels; blocks suit the hardware.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from types import MappingProxyType
from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, Counts, Gradient, constant
from sparsecore.engine.block_grid import BlockGrid, Sides
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError


class Units(Protocol):
    """How tensors are divided into units. ``str`` returns the name that :func:`as_units` reads."""

    def of(self, shape: Sides) -> Sides:
        """Return the shape of a unit in a tensor of this dense shape, with as many sides.

        Args:
            shape: of the tensor: (out, in, height, width) of a convolution, (out, in) of a linear layer, or any other.

        Returns:
            Sides of at least 1; each must divide the tensor's, or :func:`unit_map` refuses the tensor.
        """
        ...


@attrs.frozen
class SingleWeights:
    """Every weight is a unit."""

    def __str__(self) -> str:
        return "weights"

    def of(self, shape: Sides) -> Sides:
        """Return the shape of one weight."""
        return (1,) * len(shape)


@attrs.frozen
class Kernels:
    """Every kernel of a convolution, the weights between one input and one output channel, is a unit."""

    def __str__(self) -> str:
        return "kernels"

    def of(self, shape: Sides) -> Sides:
        """Return the sides after the two of the channels; in a matrix a unit is one weight."""
        return (*(1 for _ in shape[:2]), *shape[2:])


@attrs.frozen
class Blocks:
    """Every block of the first two sides, (out, in) in most layers, is a unit; each kernel position has its own blocks.

    Attributes:
        rows: b1, of the first side.
        columns: b2, of the second side; of the only one, in a vector.
    """

    rows: int = attrs.field(validator=attrs.validators.ge(1))
    columns: int = attrs.field(validator=attrs.validators.ge(1))

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    def of(self, shape: Sides) -> Sides:
        """Return b1 by b2."""
        block = (self.rows, self.columns) if len(shape) > 1 else (self.columns,)
        return (*block, *(1 for _ in shape[2:]))


_BY_NAME: Mapping[str, Units] = MappingProxyType({"weights": SingleWeights(), "kernels": Kernels()})
_BLOCKS = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})", re.ASCII)


def as_units(given: object) -> Units:
    """Return the units named 'weights', 'kernels' or, for example, '4x4'; units are returned as they are.

    Raises:
        InputError: there are none of this name.
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


@attrs.frozen(eq=False)
class UnitMap:
    """The units of a layout's weights. Here every weight is a unit; :class:`BlockUnitMap` has larger ones.

    Attributes:
        dense: the layout of the weights.
    """

    dense: Layout

    @property
    def layout(self) -> Layout:
        """The layout of the units, with one position a unit."""
        return self.dense

    @property
    def largest(self) -> int:
        """Weights in the largest unit."""
        return 1

    def units(self, topology: Topology) -> Topology:
        """Return the units that these weights make up.

        Args:
            topology: active weights in whole units, in the layout ``dense``.
        """
        return topology

    def units_containing(self, weights: Topology) -> Topology:
        """Return the units that contain any of these weights.

        Args:
            weights: any weights in the layout ``dense``, also parts of units.
        """
        return weights

    def weights(self, units: Topology) -> Topology:
        """Return all weights of these units.

        Args:
            units: units in :attr:`layout`.
        """
        return units

    def weight_counts(self, counts: Counts) -> Counts:
        """Return how many weights so many units have.

        Args:
            counts: the number of units of each tensor.
        """
        return counts

    def values(self, values: Array, topology: Topology) -> Array:  # noqa: ARG002
        """Return one value a unit, by whose magnitude strategies compare units.

        Args:
            values: (N,), one a weight of ``topology``.
            topology: active weights in whole units.

        Returns:
            One value a unit, in the dtype of ``values``: of larger units the mean |w|, of single weights the weight.
        """
        return values

    def spread(self, entries: Array, topology: Topology) -> Array:  # noqa: ARG002
        """Return for each weight the entry of its unit.

        Args:
            entries: one a unit.
            topology: the N active weights, in whole units.

        Returns:
            (N,), in the dtype of ``entries``.
        """
        return entries

    def gradient(self, gradient: Gradient, arrays: Arrays) -> Gradient:  # noqa: ARG002
        """Return the gradient with one entry a unit, active or not.

        Args:
            gradient: the dense gradients, one entry a position.
            arrays: the operations of the backend that computes them.

        Returns:
            A function from a tensor's name to the mean |∂w| of each of its units; of single weights ∂w itself.
        """
        return gradient

    def expand(self, reallocation: Reallocation, topology: Topology, values: Array) -> Reallocation:  # noqa: ARG002
        """Return the reallocation of weights that a reallocation of their units means.

        Args:
            reallocation: of units.
            topology: the N weights before it.
            values: their values, (N,).

        Returns:
            The same update in the layout ``dense``; survivors keep their values, and each weight of a unit that has
            grown gets the unit's initial value.
        """
        return reallocation


def unit_map(layout: Layout, units: Units) -> UnitMap:
    """Return the units of a layout's weights.

    Args:
        layout: the tensors.
        units: how each tensor is divided.

    Raises:
        InputError: a tensor is not made of whole units; the sentence names it.
    """
    grids = [_block_grid(name, shape, units) for name, shape in zip(layout.names, layout.shapes, strict=True)]
    return BlockUnitMap(layout, grids) if any(grid.size > 1 for grid in grids) else UnitMap(layout)


def _block_grid(name: str, shape: Sides, units: Units) -> BlockGrid:
    block = units.of(shape)
    if any(side % part for side, part in zip(shape, block, strict=True)):
        raise InputError(f"the tensor {name!r} of shape {shape} is not made of whole units of shape {block}")
    return BlockGrid(shape, block)


def partial_units_error(topology: Topology, unit_map: UnitMap) -> str | None:
    """Return how the topology has parts of units, as the end of a sentence; None where it has whole units alone.

    Args:
        topology: any weights in the dense layout.
        unit_map: the units of that layout.
    """
    whole = unit_map.weights(unit_map.units(topology))
    if whole.size == topology.size and not len(topology.arrays.nonzero(whole.positions != topology.positions)):
        return None
    return "one with parts of units: of a unit, all weights must be active or none"


@attrs.frozen(eq=False)
class BlockUnitMap(UnitMap):
    """Units of several weights: every tensor is divided into blocks.

    Attributes:
        dense: the layout of the weights.
        grids: the blocks of each tensor.
    """

    grids: Sequence[BlockGrid]

    @cached_property
    def layout(self) -> Layout:
        """The layout of the units, with one position a unit."""
        return Layout(self.dense.names, [grid.counts for grid in self.grids])

    @cached_property
    def largest(self) -> int:
        """Weights in the largest unit."""
        return max(grid.size for grid in self.grids)

    def units(self, topology: Topology) -> Topology:
        """Return the units that these weights make up, each once.

        Args:
            topology: active weights in whole units. Where there are parts of units, some units may be missing in the
                result; :func:`partial_units_error` recognizes that.
        """
        arrays, dtype = topology.arrays, self.layout.position_dtype
        once = [
            arrays.sort(units)[:: grid.size] for grid, units in zip(self.grids, self._units_of(topology), strict=True)
        ]
        counts = constant(-(-topology.counts // self._sizes))  # as many as the slices have, of parts of units too
        return Topology.of(self.layout, arrays.cast(arrays.concatenate(once), dtype), arrays, counts)

    def units_containing(self, weights: Topology) -> Topology:
        """Return every unit once that contains any of these weights, however many."""
        arrays = weights.arrays
        units_of_weights = np.unique(arrays.to_numpy(arrays.concatenate(self._units_of(weights))))
        return Topology.of(self.layout, arrays.from_numpy(units_of_weights.astype(self.layout.position_dtype)), arrays)

    def weights(self, units: Topology) -> Topology:
        """Return all weights of these units."""
        arrays, dtype = units.arrays, self.dense.position_dtype
        members = [
            weights + offset
            for grid, own, offset in zip(self.grids, _within_tensors(units), self.dense.offsets, strict=False)
            for weights in grid.weights(arrays.cast(own, dtype))
        ]
        counts = self.weight_counts(units.counts)
        return Topology.of(self.dense, arrays.sort(arrays.concatenate(members)), arrays, counts)

    def weight_counts(self, counts: Counts) -> Counts:
        """Return how many weights so many units have."""
        return constant(counts * self._sizes)

    def values(self, values: Array, topology: Topology) -> Array:
        """Return the mean |w| of each unit."""
        arrays, bounds = topology.arrays, topology.bounds
        means = []
        for grid, units, first, last in zip(self.grids, self._units_of(topology), bounds[:-1], bounds[1:], strict=True):
            # the stable sort puts a unit's weights side by side, in the order of their positions
            ordered = arrays.take(values[first:last], arrays.argsort(units))
            means.append(_mean([ordered[index :: grid.size] for index in range(grid.size)]))
        return arrays.concatenate(means)

    def spread(self, entries: Array, topology: Topology) -> Array:
        """Return for each weight the entry of its unit."""
        return topology.arrays.take(entries, self._slots(topology, self.units(topology)))

    def gradient(self, gradient: Gradient, arrays: Arrays) -> Gradient:
        """Return the gradient whose entries are the mean |∂w| of each unit."""

        def of_units(name: str) -> Array:
            tensor, dense = self.dense.index(name), gradient(name)
            units = arrays.arange(self.layout.sizes[tensor], self.dense.position_dtype)
            return _mean([arrays.take(dense, weights) for weights in self.grids[tensor].weights(units)])

        return of_units

    def expand(self, reallocation: Reallocation, topology: Topology, values: Array) -> Reallocation:
        """Return the reallocation of weights, which are pruned and grow with their units.

        Raises:
            InputError: as many units as before are other than as many weights.
        """
        arrays, after = topology.arrays, self.weights(reallocation.after)
        unit = self._slots(after, reallocation.after)
        has_grown = arrays.take(reallocation.sources == reallocation.before.size, unit)
        stayed = arrays.searchsorted(topology.positions, after.positions, "left")
        whole = Reallocation(
            before=topology,
            after=after,
            survives=arrays.readonly(arrays.take(reallocation.survives, self._slots(topology, reallocation.before))),
            sources=arrays.readonly(arrays.where(has_grown, topology.size, stayed)),
            values=values,
            pruned=self.weight_counts(reallocation.pruned),
            grown=self.weight_counts(reallocation.grown),
        )
        started = arrays.take(reallocation.values, unit)
        if reallocation.after.size == reallocation.before.size and after.size != topology.size:
            raise InputError(self._unequal())
        return attrs.evolve(whole, values=arrays.readonly(arrays.where(has_grown, started, whole.carry(values))))

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """How many weights a unit of each tensor has."""
        return np.array([grid.size for grid in self.grids], np.int64)

    def _unequal(self) -> str:
        sizes = [f"{grid.size} in {name!r}" for name, grid in zip(self.dense.names, self.grids, strict=True)]
        return (
            "the strategy moves units between tensors, which changes the number of weights as units differ in size "
            f"(weights a unit: {', '.join(sizes)}); sparsify tensors of one size of unit, or move within tensors"
        )

    def _units_of(self, topology: Topology) -> list[Array]:
        """For each tensor, return the unit of each weight, as a position in the layout of units."""
        cast, dtype = topology.arrays.cast, self.layout.position_dtype
        return [
            cast(grid.units(weights) + offset, dtype)
            for grid, weights, offset in zip(self.grids, _within_tensors(topology), self.layout.offsets, strict=False)
        ]

    def _slots(self, topology: Topology, units: Topology) -> Array:
        """Return for each weight the slot of its unit in ``units``."""
        units_of_weights = topology.arrays.concatenate(self._units_of(topology))
        return topology.arrays.searchsorted(units.positions, units_of_weights, "left")


def _within_tensors(topology: Topology) -> list[Array]:
    """Return the positions of each tensor, counted from its first one."""
    bounds, offsets = topology.bounds, topology.layout.offsets
    return [
        topology.positions[first:last] - offset
        for first, last, offset in zip(bounds[:-1], bounds[1:], offsets, strict=False)
    ]


def _mean(entries: Sequence[Array]) -> Array:
    """Return the mean magnitude, added up in this order on every backend; a single entry as it is."""
    return reduce(operator.add, map(abs, entries)) / len(entries) if len(entries) > 1 else entries[0]
