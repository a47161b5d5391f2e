"""GMP, gradual magnitude pruning (Zhu & Gupta 2017): from dense to sparse along a cubic; nothing grows."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Counts,
    CubicPruning,
    Declares,
    Every,
    Layout,
    PruningTargets,
    Randomness,
    Topology,
    check_cubic,
    check_initial_sparsity,
    hookimpl,
    random_topology,
    smallest_of_all,
    smallest_of_each,
    uniform,
)


@attrs.frozen(eq=False)
class GradualPruning:
    """Start dense, keep ever fewer of the largest weights: the 'compressed sparse' baseline (Zhu & Gupta 2017).

    s_t = s_f + (s_i - s_f)·(1 - (t-t₀)/(n·Δt))³ (equation 1), where s_f is the run's sparsity, reached exactly with the
    last update. In numbers of weights s_f is the uniform distribution's budget, so that runs of other strategies end
    with as many. Of each tensor the largest weight always stays. Pruned weights are removed from the network, while the
    paper keeps them behind masks.

    Attributes:
        initial_sparsity: s_i; 0 is a dense start.
        begin: t₀ as a fraction of the run.
        until: t₀ + n·Δt as a fraction of the run; the last update is here.
        scope: whether the largest |w| of the whole 'network' are kept, or of each 'tensor' (the paper), all alike.
        schedule: when updates are due in between.
    """

    decides_alone: ClassVar = ("initial_topology", "prune")
    tuning: ClassVar = {"until": (0.4, 0.9), "scope": ["network", "tensor"]}

    initial_sparsity: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    begin: float = 0.0
    until: float = attrs.field(default=0.75, validator=check_cubic)
    scope: Literal["network", "tensor"] = attrs.field(
        default="network", validator=attrs.validators.in_(("network", "tensor"))
    )
    schedule: Every = Every(steps=100)

    @property
    def declares(self) -> Declares:
        """Declare that the smallest weights go first, of the network or of each tensor."""
        return Declares(smallest_first=self.scope)

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Start with all positions, or at a higher initial sparsity with random ones, the same share of each tensor.

        Raises:
            InputError: the initial sparsity is above the run's.
        """
        check_initial_sparsity(self.initial_sparsity, sparsity)
        return random_topology(layout, uniform(layout, self.initial_sparsity), random, arrays)

    @hookimpl
    def initial_strategy_state(self, topology: Topology, sparsity: float) -> PruningTargets:
        """Note the numbers of weights now and, by the uniform distribution at the run's sparsity, at the end.

        Returns:
            Both int64: of all weights together, (1,), or where the scope is a tensor of each tensor, (tensors,).
        """
        counted = _COUNTED[self.scope]
        first = counted(topology.counts)
        return PruningTargets(first, np.minimum(counted(uniform(topology.layout, sparsity)), first))

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule from t₀ on, and return True at the end of the pruning."""
        cubic = self._cubic()
        end = cubic.end(clock)
        return clock.step == end or (cubic.has_begun(clock) and clock.step < end and self.schedule(clock))

    @hookimpl
    def target_size(self, topology: Topology, clock: Clock, strategy_state: PruningTargets) -> int:
        """Return (1 - s_t)·D.

        Returns:
            The number of weights after the update; at most that before, also where a topology was given at the start.
        """
        return min(topology.size, int(self._counts(clock, strategy_state).sum()))

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock, strategy_state: PruningTargets) -> Array:
        """Keep the largest |w| of the network, or of each tensor.

        Returns:
            bool, (N,), True for the survivors; of equal weights those at the lowest positions go first.
        """
        return topology.all_but(_SCOPES[self.scope](topology, values, self._counts(clock, strategy_state)))

    def _counts(self, clock: Clock, targets: PruningTargets) -> Counts:
        """Return the target number of weights, of each tensor or of all together."""
        return targets.counts(self._cubic().remaining(clock))

    def _cubic(self) -> CubicPruning:
        return CubicPruning(self.begin, self.until)


def _network(topology: Topology, values: Array, counts: Counts) -> Array:
    """Return the slots of the smallest of all, so that the sum of the counts is left."""
    return smallest_of_all(topology, values, max(0, topology.size - int(counts.sum())))


def _tensor(topology: Topology, values: Array, counts: Counts) -> Array:
    """Return the slots of the smallest of each tensor, so that its count is left."""
    return smallest_of_each(topology, values, np.maximum(0, topology.counts - counts))


_SCOPES: Mapping[str, Callable[[Topology, Array, Counts], Array]] = MappingProxyType(
    {"network": _network, "tensor": _tensor}
)

_COUNTED: Mapping[str, Callable[[Counts], Counts]] = MappingProxyType(
    {"network": lambda counts: counts.sum(keepdims=True), "tensor": lambda counts: counts.copy()}
)
