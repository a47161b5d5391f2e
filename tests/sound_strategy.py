"""A correct strategy that implements most hooks, and the collection of its defects, the mutants."""

from typing import Any, ClassVar

import attrs
import numpy as np

from sparsecore import hookimpl, per_weight
from sparsecore.engine.declarations import Declares
from sparsecore.engine.growth import free_positions, shares

MUTANTS: dict[str, tuple[type, str]] = {}
"""The class of each defect and the promise that it breaks, by a description of the defect."""


def defect(description, promise):
    def register(cls):
        frozen = attrs.frozen(eq=False)(cls)
        MUTANTS[description] = (frozen, promise)
        return frozen

    return register


@attrs.frozen(eq=False)
class Ages:
    updates: int
    ages: Any = per_weight()


@attrs.frozen(eq=False)
class Sound:
    """Prunes a fraction of each tensor, allocates by survivors, grows at random with one half, and stores ages."""

    declares: ClassVar = Declares(smallest_first="tensor", shares="survivors", grown_value=0.5)
    fraction: float = 0.4

    @hookimpl
    def update_due(self, clock):
        return clock.step % 3 == 0

    @hookimpl
    def initial_strategy_state(self, topology):
        return Ages(0, topology.arrays.zeros_like(topology.positions, topology.size))

    @hookimpl
    def perturb(self, values):
        return values * 1.0

    @hookimpl
    def prune(self, topology, values):
        dropped = [
            first + self.order(values[first:last], topology.arrays)[: int(self.fraction * (last - first))]
            for first, last in zip(topology.bounds[:-1], topology.bounds[1:], strict=True)
        ]
        return topology.all_but(topology.arrays.concatenate(dropped))

    def order(self, values, arrays):
        return arrays.argsort(abs(values))

    @hookimpl
    def allocate(self, total, survivors, room):
        return shares(total, survivors, room)

    @hookimpl
    def grow(self, occupied, counts, random):
        return free_positions(occupied, self.ranks(occupied, counts, random))

    def ranks(self, occupied, counts, random):
        draws = [random.generator("growth", name) for name in occupied.layout.names]
        return [
            np.sort(draw.choice(room, count, replace=False))
            for draw, room, count in zip(draws, occupied.room, counts, strict=True)
        ]

    @hookimpl
    def initial_values(self, grown, values):
        return grown.arrays.zeros_like(values, grown.size) + 0.5

    @hookimpl
    def remember(self, strategy_state):
        return Ages(strategy_state.updates + 1, strategy_state.ages + 1)


@attrs.frozen(eq=False)
class Guided(Sound):
    """As :class:`Sound`, but names free positions, and grows at those with the largest gradients."""

    declares: ClassVar = Declares(smallest_first="tensor", grown_value=0.5, grows_at="candidates")

    @hookimpl
    def candidates(self, topology, random):
        return free_positions(topology, self.ranks(topology, np.minimum(topology.counts, topology.room), random))

    @hookimpl
    def prune(self, topology, values, candidates):
        dropped = [
            first + self.order(values[first:last], topology.arrays)[: min(int(self.fraction * (last - first)), count)]
            for first, last, count in zip(topology.bounds[:-1], topology.bounds[1:], candidates.counts, strict=True)
        ]
        return topology.all_but(topology.arrays.concatenate(dropped))

    @hookimpl
    def allocate(self, pruned):
        return pruned

    @hookimpl
    def grow(self, counts, candidates, candidate_gradient):
        arrays = candidates.arrays
        best = [
            arrays.smallest_indices(-abs(candidate_gradient[first:last]), int(count)) + first
            for first, last, count in zip(candidates.bounds[:-1], candidates.bounds[1:], counts, strict=True)
        ]
        return arrays.take(candidates.positions, arrays.concatenate(best))


@attrs.frozen(eq=False)
class Traceable(Sound):
    """As :class:`Sound`, but grows where the gradients are largest, and declares what a compiler needs."""

    declares: ClassVar = Declares(
        smallest_first="tensor", shares="survivors", grown_value=0.5, pruned_counts="fixed", grows_first="gradient"
    )

    @hookimpl
    def grow(self, occupied, counts, gradient):
        layout = occupied.layout
        grown = [
            self.best(np.asarray(gradient(name)), np.setdiff1d(np.arange(size), occupied.local(name)), count) + offset
            for name, size, offset, count in zip(layout.names, layout.sizes, layout.offsets, counts, strict=False)
        ]
        return occupied.arrays.from_numpy(np.concatenate(grown).astype(layout.position_dtype))

    def best(self, gradient, free, count):
        return np.sort(free[np.argsort(-abs(gradient[free]), kind="stable")[:count]])


class Calls:
    def __init__(self):
        self.made = 0

    def next(self):
        self.made += 1
        return self.made


class Box:
    def __init__(self):
        self.content = None
