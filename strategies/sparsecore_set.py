"""SET, sparse evolutionary training (Mocanu et al. 2018): drop the smallest of each tensor, regrow there at random."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from sparsecore.arrays import Array, Arrays
from sparsecore.clock import Clock
from sparsecore.declared import Declares, Scope
from sparsecore.distributions import distribution
from sparsecore.growth import random_topology
from sparsecore.hooks import hookimpl
from sparsecore.layout import Layout
from sparsecore.randomness import Randomness
from sparsecore.ranking import smallest
from sparsecore.schedules import Every
from sparsecore.settings import as_written
from sparsecore.shares import Counts, shares
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class SparseEvolution:
    """Each epoch, drop the fraction ζ of each tensor's weights closest to zero and regrow as many (Mocanu et al. 2018).

    The defaults are the original's. The comparison on WRN-28-2 by Mostafa & Wang has ``start='uniform'``,
    ``ranking='magnitude'``, ``drop_fraction`` 20,000/N and DPR's schedule.

    Attributes:
        drop_fraction: ζ.
        ranking: 'signed' drops ζ of the positive weights and ζ of the negative ones, each the closest to zero;
            'magnitude' drops ζ of all by |w|.
        start: the start distribution: 'er' (Erdős–Rényi, the original), 'erk' or 'uniform'.
        schedule: when updates are due.
    """

    drop_fraction: float = attrs.field(default=0.3, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    ranking: Literal["signed", "magnitude"] = attrs.field(
        default="signed", validator=attrs.validators.in_(("signed", "magnitude"))
    )
    start: Literal["er", "erk", "uniform"] = attrs.field(
        default="er", validator=attrs.validators.in_(("er", "erk", "uniform"))
    )
    schedule: Every = Every(epochs=1)

    @property
    def declares(self) -> Declares:
        """The smallest first, of each sign or of all; growth where weights were lost."""
        return Declares(smallest_first=_SCOPES[self.ranking], shares="pruned")

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Random positions, as many in each tensor as the start distribution says."""
        return random_topology(layout, distribution(self.start)(layout, sparsity), random, arrays)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """By the schedule."""
        return self.schedule(clock)

    @hookimpl
    def prune(self, topology: Topology, values: Array) -> Array:
        """In each tensor, drop the fraction ζ closest to zero."""
        arrays = topology.arrays
        dropped = [
            closest + first
            for first, last in zip(topology.bounds[:-1], topology.bounds[1:], strict=True)
            for closest in _RANKINGS[self.ranking](values[first:last], self.drop_fraction, arrays)
        ]
        return topology.all_but(arrays.concatenate(dropped))

    @hookimpl
    def allocate(self, total: int, pruned: Counts, room: Counts) -> Counts:
        """As many in each tensor as it lost."""
        return shares(total, pruned, room)


def _signed(values: Array, fraction: float, arrays: Arrays) -> tuple[Array, ...]:
    """Slots of the fraction of positive weights and the fraction of negative weights that are closest to zero."""
    positive, negative = arrays.nonzero(values > 0), arrays.nonzero(values < 0)
    return tuple(
        arrays.take(slots, _smallest(abs(arrays.take(values, slots)), fraction, arrays))
        for slots in (positive, negative)
    )


def _magnitude(values: Array, fraction: float, arrays: Arrays) -> tuple[Array, ...]:
    """Slots of the fraction of weights with the smallest |w|."""
    return (_smallest(abs(values), fraction, arrays),)


def _smallest(scores: Array, fraction: float, arrays: Arrays) -> Array:
    return smallest(scores, int(as_written(fraction) * len(scores)), arrays)


_SCOPES: Mapping[str, Scope] = MappingProxyType({"signed": "sign", "magnitude": "tensor"})

_RANKINGS: Mapping[str, Callable[[Array, float, Arrays], tuple[Array, ...]]] = MappingProxyType(
    {"signed": _signed, "magnitude": _magnitude}
)
