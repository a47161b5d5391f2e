"""CHTs, Cannistraci-Hebb training with a soft rule (Zhang et al. 2025): growth by the topology alone, no gradients."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Cosine,
    Counts,
    Declares,
    Every,
    InputError,
    Layout,
    Randomness,
    Schedule,
    StartDistribution,
    Topology,
    all_keep_values,
    as_many_as_lost,
    as_schedule,
    check_fraction,
    check_start_distribution,
    distribution,
    fraction_of,
    hookimpl,
    random_free_positions,
    smallest_indices,
)
from sparsecore_strategies.chts_graph import Predictions, local_positions, predicted_links, receptive_fields


@attrs.frozen(eq=False)
class CannistraciHebb:
    """Drop weights of each tensor by a draw that spares the large ones, grow predicted links (Zhang et al. 2025).

    Each tensor is a graph of its outputs and inputs (:mod:`sparsecore_strategies.chts_graph`; a convolution's inputs
    are its input channels at each kernel position, where the paper has linear layers alone). It starts as receptive
    fields. An update draws the weights that stay, one after the other, with probabilities in proportion to score^T,
    then as many free positions as were dropped in proportion to CH2-L3n of the graph that is left; they start at zero.
    Where fewer have a score above zero, the others grow at random. No gradient is needed, and all is decided on the
    host in float64.

    T is 1 at the start of the run and grows evenly to ``last_exponent`` at its end, so that the draw becomes more
    certain. As in the authors' code, what was just dropped may grow again at once, and then keeps its value and
    momentum; with ``regrow_pruned`` False or True a tensor drops no more than it has had free positions. The authors
    also remove the links of neurons that have lost all their inputs or outputs in the layer before or behind; a
    strategy does not know which layers follow each other, and these links stay. Their sigmoid decay of density (CHTss)
    is left to ``density-schedule``. Their released code for language models grows the highest scores,
    ``growth='highest'``, under the name of the soft rule.

    Attributes:
        drop_fraction: ζ, of each tensor's weights.
        score: by what weights stay: their 'magnitude' |w|, or their 'relative' importance, |w| as a share of all |w| of
            the same input plus the same share of those of the same output.
        removal: 'soft' draws the weights that stay; 'smallest' drops those with the smallest scores.
        growth: 'soft' draws the positions that grow; 'highest' takes those with the highest scores, of equal ones the
            lowest positions.
        last_exponent: T at the end of the run, at least 1.
        start: how many weights each tensor starts with: 'uniform' (the paper's), 'er' or 'erk'.
        randomness: r of the receptive fields, from 0 (each output has its nearest inputs) to 1 (any). The paper tries 0
            to 0.3 with a dense last layer; where that is sparse too, small fields show each class a part of the input.
        schedule: when updates are due.
    """

    tuning: ClassVar = {
        "drop_fraction.start": (0.1, 0.5),
        "last_exponent": (1.0, 9.0),
        "randomness": [0.1, 0.3, 0.5, 0.7, 1.0],
        "schedule": [{"times": times, "until": 0.75} for times in (25, 100)],
    }

    drop_fraction: Schedule = attrs.field(
        default=Cosine(0.3, 0.0, until=0.75), converter=as_schedule, validator=check_fraction
    )
    score: Literal["magnitude", "relative"] = attrs.field(
        default="magnitude", validator=attrs.validators.in_(("magnitude", "relative"))
    )
    removal: Literal["soft", "smallest"] = attrs.field(
        default="soft", validator=attrs.validators.in_(("soft", "smallest"))
    )
    growth: Literal["soft", "highest"] = attrs.field(
        default="soft", validator=attrs.validators.in_(("soft", "highest"))
    )
    last_exponent: float = attrs.field(default=3.0, validator=[attrs.validators.ge(1), attrs.validators.le(100)])
    start: StartDistribution = attrs.field(default="uniform", validator=check_start_distribution)
    randomness: float = attrs.field(default=0.5, validator=[attrs.validators.ge(0), attrs.validators.le(1)])
    schedule: Every = Every(steps=100, until=0.75)

    @property
    def declares(self) -> Declares:
        """Declare growth where weights were lost and, if nothing is drawn, that the smallest weights go first."""
        smallest_first = self.removal == "smallest" and self.score == "magnitude"
        return Declares(smallest_first="tensor" if smallest_first else None, shares="pruned")

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Start with receptive fields in each tensor.

        Returns:
            As many positions in each tensor as the start distribution says.
        """
        counts = distribution(self.start)(layout, sparsity)
        fields = receptive_fields(layout, counts, self.randomness, random)
        return _at(fields, layout, arrays)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def prune(self, topology: Topology, values: Array, keeps_regrown: bool, clock: Clock, random: Randomness) -> Array:
        """In each tensor, drop the fraction ζ.

        Returns:
            bool, (N,), True for the survivors; the number dropped is rounded down. It is at most that of free
            positions, unless what grows again keeps its value.
        """
        arrays = topology.arrays
        dropped = fraction_of(self.drop_fraction(clock), topology.counts)
        if not keeps_regrown:
            dropped = np.minimum(dropped, topology.room)
        scores = _SCORES[self.score](topology, arrays.to_numpy(values).astype(np.float64))
        ranks = _REMOVALS[self.removal](topology, scores, partial(self._exponent, clock), random)
        survives = np.ones(topology.size, np.bool_)
        for first, last, count in zip(topology.bounds[:-1], topology.bounds[1:], dropped, strict=True):
            survives[first + smallest_indices(ranks[first:last], int(count))] = False
        return arrays.from_numpy(survives)

    keep_regrown = all_keep_values
    allocate = as_many_as_lost

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, kept: Topology, random: Randomness) -> Array:
        """Grow predicted links of each tensor's graph, and at random where too few are predicted.

        Returns:
            Free positions, ascending, ``counts[i]`` of tensor i.
        """
        layout, arrays = occupied.layout, occupied.arrays
        links = [
            self._links(predicted_links(kept, occupied, name), int(count), random.generator("links", name))
            if count
            else np.empty(0, np.int64)
            for name, count in zip(layout.names, counts, strict=True)
        ]
        grown = _at(links, layout, arrays)
        missing = counts - grown.counts
        if not missing.any():
            return grown.positions
        filled = occupied.at(
            arrays.sort(arrays.concatenate([occupied.positions, grown.positions])), occupied.counts + grown.counts
        )
        others = random_free_positions(filled, missing, random)
        return arrays.sort(arrays.concatenate([grown.positions, others]))

    def _links(self, predicted: Predictions, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return the positions that grow of those predicted, at most ``count``, ascending."""
        ranks = _GROWTHS[self.growth](predicted.scores, generator)
        return predicted.positions[smallest_indices(ranks, min(count, len(ranks)))]

    def _exponent(self, clock: Clock) -> float:
        """Return T at this time."""
        if self.last_exponent == 1:
            return 1.0
        if clock.total_steps is None:
            raise InputError(
                "last_exponent belongs to the end of the run; give the total number of steps (total_steps)"
            )
        return 1 + (self.last_exponent - 1) * clock.step / clock.total_steps


def _at(positions: list[NDArray[np.int64]], layout: Layout, arrays: Arrays) -> Topology:
    """Return the topology of positions that are counted from the first one of each tensor."""
    everywhere = np.concatenate([own + offset for own, offset in zip(positions, layout.offsets, strict=False)])
    counts = np.array([len(own) for own in positions], np.int64)
    return Topology.of(layout, arrays.from_numpy(everywhere.astype(layout.position_dtype)), arrays, counts)


def _magnitude(_: Topology, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return abs(values)


def _relative(topology: Topology, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |w| / Σ|w| of the same input + |w| / Σ|w| of the same output."""
    scores = [np.empty(0)]
    for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True):
        magnitudes, own = abs(values[topology.slots(name)]), local_positions(topology, name)
        inputs = int(np.prod(shape[1:], dtype=np.int64))
        scores.append(_share_of_group(magnitudes, own // inputs) + _share_of_group(magnitudes, own % inputs))
    return np.concatenate(scores)


def _share_of_group(magnitudes: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each magnitude as a share of those of its group; 0 where all of a group are zero."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, magnitudes)[group]
    return np.divide(magnitudes, sums, out=np.zeros_like(magnitudes), where=sums > 0)


def _drawn(
    topology: Topology, scores: NDArray[np.float64], exponent: Callable[[], float], random: Randomness
) -> NDArray[np.float64]:
    """Return numbers of which the largest belong to the weights that are drawn first, by score^T."""
    waiting = np.concatenate(
        [
            random.generator("removal", name).standard_exponential(count)
            for name, count in zip(topology.layout.names, topology.counts, strict=True)
        ]
    )
    # draws without replacement come in the order of exponential times with the rates score^T
    rates = exponent() * np.log(np.maximum(scores, np.finfo(np.float64).tiny))
    return np.asarray(rates - np.log(waiting))


def _as_they_are(
    _: Topology, scores: NDArray[np.float64], __: Callable[[], float], ___: Randomness
) -> NDArray[np.float64]:
    return scores


def _drawn_links(scores: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    return generator.standard_exponential(len(scores)) / scores


def _highest_links(scores: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
    return -scores


_SCORES: Mapping[str, Callable[[Topology, NDArray[np.float64]], NDArray[np.float64]]] = MappingProxyType(
    {"magnitude": _magnitude, "relative": _relative}
)

_REMOVALS: Mapping[
    str, Callable[[Topology, NDArray[np.float64], Callable[[], float], Randomness], NDArray[np.float64]]
] = MappingProxyType({"soft": _drawn, "smallest": _as_they_are})
"""Functions that rank weights; those with the smallest ranks are dropped."""

_GROWTHS: Mapping[str, Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]] = MappingProxyType(
    {"soft": _drawn_links, "highest": _highest_links}
)
"""Functions that rank predicted links; those with the smallest ranks grow."""
