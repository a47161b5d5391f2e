"""Iterative pruning of a trained network: every tensor by the same fraction, along a cubic (Zhu & Gupta 2017)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Counts,
    Declares,
    InputError,
    Layout,
    PruningTargets,
    Randomness,
    Topology,
    as_written,
    hookimpl,
    random_topology,
    shares,
    smallest_of_each,
    total_steps,
    uniform,
)


def _check_sparsities(_: object, attribute: "attrs.Attribute[Mapping[str, float]]", given: Mapping[str, float]) -> None:
    for name, sparsity in given.items():
        if not 0 <= sparsity < 1:
            raise InputError(f"a sparsity in {attribute.name} is at least 0 and below 1; given {sparsity} for {name!r}")


@attrs.frozen(eq=False)
class IterativePruning:
    """Prune a network n times while it is trained further: after the k-th time s_k = s·(1 - (1 - k/n)³) is pruned.

    The weights of smallest magnitude go, in every tensor by the same fraction, and nothing grows. The prunings are
    evenly spread, the first one after half the distance between two of them: the k-th after the fraction
    ``until``·(2k - 1)/(2n - 1) of the run.

    The defaults are those of Mostafa & Wang (2018), who train a dense network and then prune it for 48 epochs: 20
    times, at the ends of epochs 0, 2, ..., 38 (counted from 0). Their comparison on MNIST keeps 100 of the 1,000
    weights of the last layer, which is ``highest_sparsity = { "classifier.weight" = 0.9 }``.

    Attributes:
        prunings: n.
        until: the fraction of the run at which the last pruning is.
        highest_sparsity: by the name of a tensor its highest sparsity at the end; the other tensors become as much
            sparser as it takes for all together to have the run's sparsity.
    """

    declares: ClassVar = Declares(smallest_first="tensor")
    decides_alone: ClassVar = ("initial_topology", "prune")
    tuning: ClassVar = {"until": (0.4, 0.9)}

    prunings: int = attrs.field(default=20, validator=attrs.validators.ge(1))
    until: float = attrs.field(default=0.8125, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    highest_sparsity: Mapping[str, float] = attrs.field(factory=dict, validator=_check_sparsities)

    @hookimpl
    def initial_topology(self, layout: Layout, random: Randomness, arrays: Arrays) -> Topology:
        """Start with all positions."""
        return random_topology(layout, uniform(layout, 0.0), random, arrays)

    @hookimpl
    def initial_strategy_state(self, topology: Topology, sparsity: float) -> PruningTargets:
        """Note the numbers of weights of each tensor now and at the end.

        Returns:
            Both int64, (tensors,).

        Raises:
            InputError: ``highest_sparsity`` names no tensor, or leaves fewer weights than there are other tensors.
        """
        last = _final_counts(topology.layout, sparsity, self.highest_sparsity)
        return PruningTargets(topology.counts.copy(), np.minimum(last, topology.counts))

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Return whether a pruning follows this step."""
        return self._finished(clock, clock.step) > self._finished(clock, clock.step - 1)

    @hookimpl
    def target_size(self, topology: Topology, clock: Clock, strategy_state: PruningTargets) -> int:
        """Return the number of weights that this pruning leaves."""
        return min(topology.size, int(self._counts(clock, strategy_state).sum()))

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock, strategy_state: PruningTargets) -> Array:
        """Keep the largest |w| of each tensor.

        Returns:
            bool, (N,), True for the survivors; of equal weights those at the lowest positions go first.
        """
        excess = np.maximum(0, topology.counts - self._counts(clock, strategy_state))
        return topology.all_but(smallest_of_each(topology, values, excess))

    def _counts(self, clock: Clock, targets: PruningTargets) -> Counts:
        """Return the number of weights of each tensor after the latest pruning."""
        return targets.counts((1 - Fraction(self._finished(clock, clock.step), self.prunings)) ** 3)

    def _finished(self, clock: Clock, step: int) -> int:
        """Return how many prunings are due until this step, itself included."""
        steps = total_steps(clock)
        end = max(1, min(steps - 1, int(as_written(self.until) * steps)))
        halves = max(0, step) * (2 * self.prunings - 1) // end
        return min(self.prunings, (halves + 1) // 2)


def _final_counts(layout: Layout, sparsity: float, highest: Mapping[str, float]) -> Counts:
    """Return the number of weights of each tensor at the end."""
    for name in highest:
        if name not in layout.names:
            raise InputError(f"highest_sparsity names {name!r}; the sparse tensors are {', '.join(layout.names)}")
    counts = uniform(layout, sparsity).copy()
    kept = {layout.index(name): uniform(layout, most)[layout.index(name)] for name, most in highest.items()}
    raised = {tensor: count for tensor, count in kept.items() if count > counts[tensor]}
    others = [tensor for tensor in range(len(layout)) if tensor not in raised]
    if not raised:
        return counts
    left = int(counts.sum()) - sum(map(int, raised.values()))
    if left < len(others):
        raise InputError(
            f"at sparsity {sparsity:g} there are {int(uniform(layout, sparsity).sum())} weights, and the tensors of "
            f"highest_sparsity alone would keep {sum(map(int, raised.values()))}; give these a higher sparsity"
        )
    sizes = np.array([layout.sizes[tensor] for tensor in others], np.int64)
    for tensor, count in raised.items():
        counts[tensor] = count
    counts[others] = shares(left, sizes, sizes)
    return counts
