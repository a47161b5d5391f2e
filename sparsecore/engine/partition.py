"""Parts of a network's sparse tensors, and how topologies, vectors and reallocations are split into them and joined."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import attrs
import numpy as np

from sparsecore.engine.arrays import Array, Arrays, Counts, constant
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError

Place = tuple[int, int]
"""The index of a part, and that of a tensor in it."""


@attrs.frozen(eq=False)
class Partition:
    """A layout and its parts: every tensor is in one of them.

    Vectors have one entry a weight, in the order of positions. A partition of one part changes nothing: what is split
    or joined is returned as it is.

    Attributes:
        layout: all tensors.
        parts: the layouts of the parts, whose tensors are in the order of ``layout``.
    """

    layout: Layout
    parts: tuple[Layout, ...]

    @classmethod
    def of(cls, layout: Layout, groups: Iterable[Iterable[str]]) -> "Partition":
        """Return the partition into groups of tensors.

        Args:
            layout: all tensors.
            groups: the names of the tensors of each part, in any order.

        Raises:
            InputError: a tensor is in several parts or in none, or a part has no tensor.
        """
        names = [frozenset(group) for group in groups]
        every = sorted(name for group in names for name in group)
        if every != sorted(layout.names):
            raise InputError(f"parts of a layout have each of its tensors once: {', '.join(layout.names)}")
        shapes = dict(zip(layout.names, layout.shapes, strict=True))
        inner = (Layout.of({name: shapes[name] for name in layout.names if name in group}) for group in names)
        return cls(layout, tuple(inner))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where each tensor of the layout is."""
        found = {name: (part, index) for part, own in enumerate(self.parts) for index, name in enumerate(own.names)}
        return tuple(found[name] for name in self.layout.names)

    @property
    def is_whole(self) -> bool:
        """Whether there is one part alone."""
        return len(self.parts) == 1

    def split(self, topology: Topology) -> tuple[Topology, ...]:
        """Return the topology of each part.

        Args:
            topology: of the layout.
        """
        if self.is_whole:
            return (topology,)
        offsets = self.layout.offsets
        local = [
            topology.positions[topology.bounds[i] : topology.bounds[i + 1]] - offsets[i]
            for i in range(len(self.layout))
        ]
        return tuple(
            self._topology(own, [local[i] for i in tensors], topology.counts[tensors], topology.arrays)
            for own, tensors in zip(self.parts, self._tensors, strict=True)
        )

    def join(self, topologies: Sequence[Topology]) -> Topology:
        """Return the topology of the layout.

        Args:
            topologies: of each part.
        """
        if self.is_whole:
            return topologies[0]
        local, counts = [], []
        for part, index in self.places:
            own = topologies[part]
            first, last = own.bounds[index], own.bounds[index + 1]
            local.append(own.positions[first:last] - own.layout.offsets[index])
            counts.append(last - first)
        return self._topology(self.layout, local, np.array(counts, np.int64), topologies[0].arrays)

    def split_vector(self, vector: Array, topology: Topology) -> tuple[Array, ...]:
        """Return the entries of each part.

        Args:
            vector: N entries, or N rows.
            topology: the N positions of all tensors.
        """
        if self.is_whole:
            return (vector,)
        pieces = [vector[topology.bounds[i] : topology.bounds[i + 1]] for i in range(len(self.layout))]
        return tuple(topology.arrays.concatenate([pieces[i] for i in tensors]) for tensors in self._tensors)

    def join_vectors(self, vectors: Sequence[Array], topologies: Sequence[Topology]) -> Array:
        """Return the entries of all tensors.

        Args:
            vectors: the entries of each part, of one dtype.
            topologies: the positions of each part.
        """
        if self.is_whole:
            return vectors[0]
        pieces = [
            vectors[part][topologies[part].bounds[index] : topologies[part].bounds[index + 1]]
            for part, index in self.places
        ]
        return topologies[0].arrays.concatenate(pieces)

    def split_reallocation(self, reallocation: Reallocation) -> tuple[Reallocation, ...]:
        """Return what was pruned and grown in each part.

        Args:
            reallocation: of all tensors.
        """
        if self.is_whole:
            return (reallocation,)
        before, after = self.split(reallocation.before), self.split(reallocation.after)
        momentum = reallocation.momentum
        columns = zip(
            before,
            after,
            self.split_vector(reallocation.survives, reallocation.before),
            self.split_vector(reallocation.values, reallocation.after),
            [None] * len(self.parts) if momentum is None else self.split_vector(momentum, reallocation.grown_weights),
            self._tensors,
            strict=True,
        )
        return tuple(
            Reallocation(
                before=own_before,
                after=own_after,
                survives=survives,
                sources=_moved(
                    [
                        reallocation.sources[reallocation.after.bounds[i] : reallocation.after.bounds[i + 1]]
                        for i in own
                    ],
                    [own_before.bounds[index] - reallocation.before.bounds[i] for index, i in enumerate(own)],
                    [reallocation.before.size] * len(own),
                    own_before,
                ),
                values=values,
                pruned=constant(reallocation.pruned[own]),
                grown=constant(reallocation.grown[own]),
                momentum=own_momentum,
            )
            for own_before, own_after, survives, values, own_momentum, own in columns
        )

    def join_reallocations(self, reallocations: Sequence[Reallocation]) -> Reallocation:
        """Return what was pruned and grown in all tensors.

        Args:
            reallocations: of each part; :func:`unchanged` where there was none.
        """
        if self.is_whole:
            return reallocations[0]
        befores, afters = [one.before for one in reallocations], [one.after for one in reallocations]
        before = self.join(befores)
        sources = [
            reallocations[part].sources[afters[part].bounds[index] : afters[part].bounds[index + 1]]
            for part, index in self.places
        ]
        moves = [before.bounds[i] - befores[part].bounds[index] for i, (part, index) in enumerate(self.places)]
        return Reallocation(
            before=before,
            after=self.join(afters),
            survives=self.join_vectors([one.survives for one in reallocations], befores),
            sources=_moved(sources, moves, [befores[part].size for part, _ in self.places], before),
            values=self.join_vectors([one.values for one in reallocations], afters),
            pruned=self.join_counts([one.pruned for one in reallocations]),
            grown=self.join_counts([one.grown for one in reallocations]),
            momentum=self._joined_momentum(reallocations),
        )

    def _joined_momentum(self, reallocations: Sequence[Reallocation]) -> Array | None:
        """Return the momentum of all grown weights, with zeros for parts that have none; None if no part has any."""
        known = next((one.momentum for one in reallocations if one.momentum is not None), None)
        if known is None:
            return None
        zeros_like = reallocations[0].before.arrays.zeros_like
        parts = [
            zeros_like(known, one.grown_weights.size) if one.momentum is None else one.momentum for one in reallocations
        ]
        return self.join_vectors(parts, [one.grown_weights for one in reallocations])

    def join_counts(self, counts: Sequence[Counts]) -> Counts:
        """Return one number for each tensor.

        Args:
            counts: one for each tensor of each part.

        Returns:
            int64, in the order of the layout, read-only.
        """
        return constant(np.array([counts[part][index] for part, index in self.places], np.int64))

    @cached_property
    def _tensors(self) -> tuple[list[int], ...]:
        """The indices in the layout of the tensors of each part."""
        return tuple([self.layout.index(name) for name in own.names] for own in self.parts)

    @staticmethod
    def _topology(layout: Layout, local: Sequence[Array], counts: Counts, arrays: Arrays) -> Topology:
        dtype, pairs = layout.position_dtype, zip(local, layout.offsets, strict=False)
        positions = arrays.concatenate([arrays.cast(one, dtype) + offset for one, offset in pairs])
        return Topology.of(layout, positions, arrays, counts)


def unchanged(topology: Topology, values: Array) -> Reallocation:
    """Return the reallocation in which nothing is pruned and nothing grows.

    Args:
        topology: the N active positions.
        values: (N,).
    """
    none = constant(np.zeros(len(topology.layout), np.int64))
    sources = topology.arrays.arange(topology.size, np.int64)
    return Reallocation(topology, topology, topology.all(), sources, values, none, none)


def _moved(pieces: Sequence[Array], moves: Sequence[int], grown: Sequence[int], before: Topology) -> Array:
    """Return sources of other slots: each piece moved, except for its marks of grown weights.

    Args:
        pieces: the sources of each tensor.
        moves: what is added to those of each.
        grown: the number that marks a grown weight in each.
        before: the topology of the new slots, whose size marks a grown weight.
    """
    arrays = before.arrays
    return arrays.concatenate(
        [
            arrays.where(piece == mark, arrays.zeros_like(piece, len(piece)) + before.size, piece + move)
            for piece, move, mark in zip(pieces, moves, grown, strict=True)
        ]
    )
