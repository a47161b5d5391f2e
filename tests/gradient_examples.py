"""Strategies that take gradients of active weights and of candidates, and keep what they have seen."""

from typing import Any

import attrs
import numpy as np

from sparsecore.engine.growth import random_free_positions
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.schedules import Every


@attrs.frozen(eq=False)
class Seen:
    """Updates every second step; moves a few weights by the gradients of active weights and of candidates."""

    schedule: Every = Every(steps=2)
    seen: list[dict[str, Any]] = attrs.field(factory=list)

    @hookimpl
    def update_due(self, clock):
        return self.schedule(clock)

    @hookimpl
    def candidates(self, topology, random):
        return random_free_positions(topology, np.minimum(topology.counts // 2, topology.room), random)

    @hookimpl
    def prune(self, topology, weight_gradient, candidates, candidate_gradient):
        host = topology.arrays.to_numpy
        self.seen.append(
            {
                "positions": topology.host_positions.copy(),
                "active": host(weight_gradient).copy(),
                "candidates": candidates.host_positions.copy(),
                "of candidates": host(candidate_gradient).copy(),
            }
        )
        count = min(3, candidates.size)
        return topology.all_but(topology.arrays.smallest_indices(abs(weight_gradient), count))

    @hookimpl
    def allocate(self, total, candidates, candidate_gradient):
        best = candidates.host_positions[np.sort(self._best(total, candidates, candidate_gradient))]
        return np.histogram(best, candidates.layout.offsets)[0].astype(np.int64)

    @hookimpl
    def grow(self, counts, candidates, candidate_gradient):
        best = np.sort(self._best(int(counts.sum()), candidates, candidate_gradient))
        return candidates.arrays.from_numpy(candidates.host_positions[best])

    @staticmethod
    def _best(count, candidates, candidate_gradient):
        return np.argsort(-abs(candidates.arrays.to_numpy(candidate_gradient)), kind="stable")[:count]


@attrs.frozen(eq=False)
class SeenInEveryStep:
    """Takes the gradients of the active weights in every step, and moves nothing."""

    seen: list[Any] = attrs.field(factory=list)

    @hookimpl
    def update_due(self):
        return False

    @hookimpl
    def observe(self, weight_gradient, topology):
        self.seen.append(topology.arrays.to_numpy(weight_gradient).copy())
