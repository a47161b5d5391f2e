"""A piece to stack on other strategies: drop a fraction of the weights, the smallest."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from sparsecore.strategy import (
    Array,
    Clock,
    Declares,
    Piecewise,
    Schedule,
    Topology,
    as_schedule,
    check_fraction,
    fraction_of,
    hookimpl,
    smallest_of_all,
    smallest_of_each,
)


@attrs.frozen(eq=False)
class MagnitudeDrop:
    """Drop the fraction of the weights with the smallest |w|; other strategies decide where as many grow.

    Attributes:
        drop_fraction: a number that may change over the run.
        scope: whether it is the fraction of each 'tensor' or of the whole 'network'; of a tensor one always stays.
    """

    drop_fraction: Schedule = attrs.field(default=Piecewise({0: 0.3}), converter=as_schedule, validator=check_fraction)
    scope: Literal["tensor", "network"] = attrs.field(
        default="tensor", validator=attrs.validators.in_(("tensor", "network"))
    )

    @property
    def declares(self) -> Declares:
        """Declare that the smallest weights go first, of each tensor or of the network."""
        return Declares(smallest_first=self.scope, pruned_counts="fixed" if self.scope == "tensor" else None)

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock) -> Array:
        """Keep all but the fraction with the smallest |w|.

        Returns:
            bool, (N,); the number dropped, of each tensor or of the network, is rounded down.
        """
        return topology.all_but(_SCOPES[self.scope](topology, values, self.drop_fraction(clock)))


def _tensor(topology: Topology, values: Array, fraction: float) -> Array:
    return smallest_of_each(topology, values, fraction_of(fraction, topology.counts))


def _network(topology: Topology, values: Array, fraction: float) -> Array:
    return smallest_of_all(topology, values, int(fraction_of(fraction, topology.counts.sum(keepdims=True))[0]))


_SCOPES: Mapping[str, Callable[[Topology, Array, float], Array]] = MappingProxyType(
    {"tensor": _tensor, "network": _network}
)
