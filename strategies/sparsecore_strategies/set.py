"""SET, sparse evolutionary training (Mocanu et al. 2018): drop the smallest of each tensor, regrow there at random."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import ClassVar, Literal

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Counts,
    Declares,
    Every,
    InputError,
    Layout,
    Randomness,
    Scope,
    StartDistribution,
    Topology,
    as_many_as_lost,
    as_written,
    check_start_distribution,
    counting_of,
    distribution,
    hookimpl,
    random_topology,
    shares,
    slots_in_each,
    smallest,
    smallest_of_each,
)


def _check_drop(_: object, attribute: "attrs.Attribute[float]", given: float) -> None:
    if given >= 1 and (given == 1 or not float(given).is_integer()):
        raise InputError(
            f"{attribute.name} must be a fraction below 1, or a whole number of weights from 2 on; given {given}"
        )


@attrs.frozen(eq=False)
class SparseEvolution:
    """Each epoch, drop the fraction ζ of each tensor's weights closest to zero and regrow as many (Mocanu et al. 2018).

    The defaults are the original's. In the comparison on WRN-28-2 by Mostafa & Wang, SET has ``start='uniform'``,
    ``ranking='magnitude'``, ``drop_fraction=20_000`` and DPR's schedule.

    A weight that is exactly zero has neither sign: it has grown where no gradient reaches it, say onto a hidden unit
    that is never active. Such weights go before all others. They count in ζ: where they are fewer than ζ of a tensor's
    weights, what is missing is taken from the positive and the negative weights in equal proportion; where they are
    more, only zeros go, those at the lowest positions. So an update never drops more than ζ of a tensor. (The authors'
    code drops all zeros, and in addition ζ of the positive and ζ of the negative weights.)

    Attributes:
        drop_fraction: ζ; or, from 2 on, how many weights an update drops in all, a whole number that tensors share in
            proportion to their weights.
        ranking: 'signed' drops ζ of the positive weights and ζ of the negative ones, each the closest to zero, and
            exact zeros before them; 'magnitude' drops ζ of all by |w|.
        start: the start distribution: 'er' (Erdős–Rényi, the original), 'erk' or 'uniform'.
        schedule: when updates are due.
    """

    tuning: ClassVar = {
        "drop_fraction": (0.1, 0.5),
        "schedule": [{"times": times, "until": 0.8} for times in (25, 100, 400)],
    }

    drop_fraction: float = attrs.field(default=0.3, validator=[attrs.validators.ge(0), _check_drop])
    ranking: Literal["signed", "magnitude"] = attrs.field(
        default="signed", validator=attrs.validators.in_(("signed", "magnitude"))
    )
    start: StartDistribution = attrs.field(default="er", validator=check_start_distribution)
    schedule: Every = Every(epochs=1)

    @property
    def declares(self) -> Declares:
        """Declare that the smallest weights go first, of each sign or of all, and growth where weights were lost."""
        return Declares(smallest_first=_SCOPES[self.ranking], shares="pruned", pruned_counts="fixed")

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Start at random within each tensor.

        Returns:
            As many positions in each tensor as the start distribution says; with 'er' and 'erk' small tensors may be
            full.
        """
        return random_topology(layout, distribution(self.start)(layout, sparsity), random, arrays)

    @hookimpl
    def initial_strategy_state(self, topology: Topology) -> None:
        """Check that there are more weights than are to be dropped; there is no state.

        Raises:
            InputError: there are not.
        """
        if self.drop_fraction >= topology.size:
            raise InputError(
                f"set is to drop {self.drop_fraction:.0f} weights an update, but there are only {topology.size}; set a "
                "smaller drop_fraction"
            )

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def prune(self, topology: Topology, values: Array) -> Array:
        """In each tensor, drop the fraction ζ closest to zero, or its part of the number to drop.

        Returns:
            bool, (N,), True for the survivors; each tensor loses at most ⌊ζ·N_i⌋ weights.
        """
        return topology.all_but(_RANKINGS[self.ranking](topology, values, self._quotas(topology)))

    allocate = as_many_as_lost

    def _quotas(self, topology: Topology) -> list[Fraction]:
        """Return how many weights of each tensor are to be dropped, not rounded where that follows from ζ."""
        counts = topology.counts
        if self.drop_fraction < 1:
            return [as_written(self.drop_fraction) * int(count) for count in counts]
        # another strategy may have changed the number of weights since the start
        return [Fraction(int(share)) for share in shares(min(int(self.drop_fraction), topology.size), counts, counts)]


def _signed(topology: Topology, values: Array, quotas: Sequence[Fraction]) -> Array:
    """Return the slots of each tensor's zeros, and of its positive and its negative weights closest to zero."""
    arrays, size = topology.arrays, topology.size
    which = (values == 0, values > 0, values < 0)
    bounds = [start + bound for start in (0, size, 2 * size) for bound in topology.bounds[:-1]] + [3 * size]
    # all counts at once, for which a device is waited for a single time
    counts = counting_of(arrays).count_each(arrays.concatenate(which), bounds).reshape(3, -1).T
    return slots_in_each(topology, values, lambda i, own, used: _signed_of(own, counts[i], quotas[i], used))


def _signed_of(values: Array, counts: Counts, quota: Fraction, arrays: Arrays) -> Array:
    """Return slots of one tensor, at most its quota; ``counts`` are of its zero, positive and negative values."""
    which = (values == 0, values > 0, values < 0)
    zeros, positive, negative = (
        counting_of(arrays).nonzero(mask, int(count)) for mask, count in zip(which, counts, strict=True)
    )
    # the fraction of either sign that fills the quota when the zeros have gone: ζ itself where there are none
    rest = max(Fraction(0), quota - len(zeros)) / max(1, len(positive) + len(negative))
    closest = [_closest(slots, values, int(rest * len(slots)), arrays) for slots in (positive, negative)]
    return arrays.concatenate([zeros[: int(quota)], *closest])


def _closest(slots: Array, values: Array, count: int, arrays: Arrays) -> Array:
    return arrays.take(slots, smallest(abs(arrays.take(values, slots)), count, arrays))


def _magnitude(topology: Topology, values: Array, quotas: Sequence[Fraction]) -> Array:
    """Return the slots of each tensor's weights with the smallest |w|, as many as its quota."""
    return smallest_of_each(topology, values, np.array([int(quota) for quota in quotas], np.int64))


_SCOPES: Mapping[str, Scope] = MappingProxyType({"signed": "sign", "magnitude": "tensor"})

_RANKINGS: Mapping[str, Callable[[Topology, Array, Sequence[Fraction]], Array]] = MappingProxyType(
    {"signed": _signed, "magnitude": _magnitude}
)
