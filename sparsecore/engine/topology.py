"""The dense coordinate space of a network's sparse tensors, and which of its positions are active."""

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine import host_parts
from sparsecore.engine.arrays import Array, Arrays, Counts, constant, counting_of, host_of
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
    """Names and shapes of the sparse tensors, which are flattened (row-major) into one space of D positions.

    Attributes:
        names: the tensors' names, distinct, in the order of their positions.
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
        """Return the layout of tensors given as ``{name: shape}``.

        Args:
            shapes: the tensors in the order of their positions, each with at least one side.

        Raises:
            InputError: there is no tensor, a shape has no sides or one below 1, or there are 2⁶³ positions or more.
        """
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
        """Return the index of the tensor of this name.

        Raises:
            InputError: there is none; the message lists the names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise InputError(unknown("sparse tensor", name, self.names)) from None

    def __len__(self) -> int:
        return len(self.names)


@attrs.frozen(eq=False)
class Topology:
    """The active positions of a layout.

    Attributes:
        layout: the dense coordinate space.
        positions: the N active positions, strictly ascending, of the layout's position dtype, on the backend.
        bounds: slots ``bounds[i]:bounds[i+1]`` belong to tensor i (T+1 host integers).
        arrays: the operations of the backend that holds ``positions``.
    """

    layout: Layout
    positions: Array = attrs.field(repr=False)
    bounds: tuple[int, ...] = attrs.field(repr=False)
    arrays: Arrays = attrs.field(repr=False)

    @classmethod
    def of(cls, layout: Layout, positions: Array, arrays: Arrays, counts: Counts | None = None) -> "Topology":
        """Return the topology of these positions.

        Args:
            layout: the dense coordinate space.
            positions: strictly ascending, on the backend.
            arrays: the operations of that backend.
            counts: how many positions are in each tensor, if that is known; otherwise it is computed, for which the
                host waits for a device.
        """
        if counts is not None:
            return cls(layout, arrays.readonly(positions), (0, *map(int, np.cumsum(counts))), arrays)
        offsets = arrays.from_numpy(np.asarray(layout.offsets[1:-1], layout.position_dtype))
        inner = arrays.to_numpy(arrays.searchsorted(positions, offsets, "left")) if len(layout) > 1 else ()
        return cls(layout, arrays.readonly(positions), (0, *map(int, inner), len(positions)), arrays)

    def at(self, positions: Array, counts: Counts | None = None) -> "Topology":
        """Return the topology of other positions (strictly ascending) of the same layout, on the same backend.

        Args:
            positions: the other positions.
            counts: how many of them are in each tensor, if that is known.
        """
        return Topology.of(self.layout, positions, self.arrays, counts)

    def subset(self, mask: Array, counts: Counts | None = None) -> "Topology":
        """Return the topology of some of the positions.

        Args:
            mask: N bools on the backend, True for the positions that stay.
            counts: how many stay in each tensor; None to count them, for which the host waits for a device once.
        """
        counting = counting_of(self.arrays)
        counts = counting.count_each(mask, self.bounds) if counts is None else counts
        host = host_of(self.arrays)
        if host is not None:
            whole, which = self.host_positions, self.arrays.to_numpy(mask)
            return self.at(host_parts.chosen(whole, which, self.bounds, counts, host), counts)
        return self.at(self.arrays.take(self.positions, counting.nonzero(mask, int(counts.sum()))), counts)

    def all(self) -> Array:
        """Return one bool a weight, all of them true."""
        return self.arrays.zeros_like(self.positions, self.size) == 0

    def all_but(self, slots: Array) -> Array:
        """Return one bool a weight: false at these slots, true elsewhere.

        Args:
            slots: distinct indices into ``positions``, in [0, N), on the backend.
        """
        host = host_of(self.arrays)
        if host is None:
            return self.arrays.put(self.all(), slots, False)
        mask = np.ones(self.size, np.bool_)
        mask[self.arrays.to_numpy(slots)] = False
        return host.share(mask)

    @property
    def size(self) -> int:
        """N, the number of active weights."""
        return self.bounds[-1]

    @cached_property
    def counts(self) -> Counts:
        """Active weights per tensor."""
        bounds = np.asarray(self.bounds, np.int64)
        return constant(bounds[1:] - bounds[:-1])

    @cached_property
    def room(self) -> Counts:
        """Inactive positions per tensor."""
        return constant(np.asarray(self.layout.sizes, np.int64) - self.counts)

    @property
    def sparsity(self) -> float:
        """The share of positions that are inactive."""
        return 1.0 - self.size / self.layout.size

    def slots(self, name: str) -> slice:
        """Return the slice of the tensor's weights in any vector with one entry a weight.

        Args:
            name: the tensor's name.

        Raises:
            InputError: there is no such tensor.
        """
        tensor = self.layout.index(name)
        return slice(self.bounds[tensor], self.bounds[tensor + 1])

    @cached_property
    def host_positions(self) -> NDArray[np.integer]:
        """The positions as a NumPy array; copied from a device once."""
        return self.arrays.to_numpy(self.positions)

    def local(self, name: str) -> NDArray[np.int64]:
        """Return the tensor's active positions, counted from its own first one, on the host.

        Args:
            name: the tensor's name.

        Returns:
            Row-major indices into the dense tensor, ascending, (N_i,).

        Raises:
            InputError: there is no such tensor.
        """
        positions = self.arrays.to_numpy(self.positions[self.slots(name)])
        return positions.astype(np.int64) - self.layout.offsets[self.layout.index(name)]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return the tensor's mask in its dense shape, on the host.

        Args:
            name: the tensor's name.

        Returns:
            True at active positions; a new array of D_i bytes.

        Raises:
            InputError: there is no such tensor.
        """
        tensor = self.layout.index(name)
        mask = np.zeros(self.layout.sizes[tensor], np.bool_)
        mask[self.local(name)] = True
        return mask.reshape(self.layout.shapes[tensor])

    def sha256(self) -> str:
        """Return a digest of the layout and of the positions as little-endian int64."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256(json.dumps([self.layout.names, self.layout.shapes]).encode())
        digest.update(self.arrays.to_numpy(self.positions).astype("<i8").tobytes())
        return digest.hexdigest()


def from_masks(masks: Sequence[NDArray[np.bool_]], names: Sequence[str], arrays: Arrays) -> Topology:
    """Return the topology that has these masks.

    Args:
        masks: one a tensor, in its dense shape.
        names: the tensors' names, in the same order.
        arrays: the operations of the backend that is to hold the positions.
    """
    layout = Layout(names, [mask.shape for mask in masks])
    flat = np.concatenate([np.asarray(mask, np.bool_).ravel() for mask in masks])
    return Topology.of(layout, arrays.from_numpy(np.flatnonzero(flat).astype(layout.position_dtype)), arrays)
