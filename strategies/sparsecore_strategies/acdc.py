"""AC/DC (Peste et al. 2021): phases of training with all weights alternate with phases of the largest ones alone."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Literal

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
    Randomness,
    Topology,
    as_written,
    hookimpl,
    random_topology,
    smallest_of_all,
    smallest_of_each,
    uniform,
    weight_counts_error,
)


@attrs.frozen(eq=False)
class CompressedCounts:
    """The strategy state: how many weights a compressed phase has.

    Attributes:
        counts: int64; one number a tensor, or a single one for all tensors together.
    """

    counts: Counts

    def loading_error(self, like: "CompressedCounts", topology: Topology) -> str | None:
        """Return what is wrong with numbers of weights that were read."""
        return weight_counts_error("counts", self.counts, like.counts, topology)


def _check_phases(strategy: Any, _: object, __: object) -> None:
    if not 0 <= strategy.begin < strategy.until <= strategy.last < 1:
        raise InputError(
            "phases alternate from a fraction of the run until a later one, and the last compressed phase begins then "
            f"or later, 0 <= begin < until <= last < 1; given begin = {strategy.begin}, until = {strategy.until}, "
            f"last = {strategy.last}"
        )


@attrs.frozen(eq=False)
class AlternatingCompression:
    """Alternate between all weights and the largest of them, and end with the largest (Peste et al. 2021).

    Training starts with all weights. A compressed phase begins with pruning to the run's sparsity, in numbers of
    weights the uniform distribution's budget; a decompressed phase begins with all positions active again, those that
    were pruned at zero and with an empty optimizer state. Of each tensor the largest weight always stays. The defaults
    are the proportions of the authors' runs of 100 epochs on ImageNet: 10 epochs of warm-up, phases of 5 epochs each, a
    last decompressed phase of 10 and a last compressed one of 15.

    The authors also forget the momentum of all weights, and not of the pruned ones alone, when a decompressed phase
    begins. A decompressed phase takes the time and the memory of dense training.

    Attributes:
        begin: when the first compressed phase begins, as a fraction of the run; before it is the warm-up.
        phase: how long each phase is, as a fraction of the run.
        until: when the last decompressed phase begins, or goes on, as a fraction of the run.
        last: when the last compressed phase begins, as a fraction of the run, or at the last step but one.
        scope: whether the largest |w| of the whole 'network' are kept, or of each 'tensor', all alike.
    """

    decides_alone: ClassVar = ("initial_topology", "prune")
    tuning: ClassVar = {"phase": (0.02, 0.2), "scope": ["network", "tensor"]}

    begin: float = 0.1
    phase: float = attrs.field(default=0.05, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    until: float = 0.75
    last: float = attrs.field(default=0.85, validator=_check_phases)
    scope: Literal["network", "tensor"] = attrs.field(
        default="network", validator=attrs.validators.in_(("network", "tensor"))
    )

    @property
    def declares(self) -> Declares:
        """Declare that the smallest weights go first, of the network or of each tensor."""
        return Declares(smallest_first=self.scope)

    @hookimpl
    def initial_topology(self, layout: Layout, random: Randomness, arrays: Arrays) -> Topology:
        """Start with all positions."""
        return random_topology(layout, layout.sizes, random, arrays)

    @hookimpl
    def initial_strategy_state(self, topology: Topology, sparsity: float) -> CompressedCounts:
        """Note the numbers of weights of the uniform distribution at the run's sparsity.

        Returns:
            Of all weights together, (1,), or where the scope is a tensor of each tensor, (tensors,).
        """
        return CompressedCounts(_COUNTED[self.scope](uniform(topology.layout, sparsity)))

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Return True where a phase ends."""
        return self._is_compressed(clock.step, clock) != self._is_compressed(clock.step - 1, clock)

    @hookimpl
    def target_size(self, topology: Topology, clock: Clock, strategy_state: CompressedCounts) -> int:
        """Return the number of weights of the phase that begins.

        Returns:
            That of a compressed phase, at most as many as there are; else the number of all positions.
        """
        if not self._is_compressed(clock.step, clock):
            return topology.layout.size
        return int(np.minimum(_COUNTED[self.scope](topology.counts), strategy_state.counts).sum())

    @hookimpl
    def prune(self, topology: Topology, values: Array, clock: Clock, strategy_state: CompressedCounts) -> Array:
        """Keep the largest |w| of the network, or of each tensor, where a compressed phase begins.

        Returns:
            bool, (N,), True for the survivors; of equal weights those at the lowest positions go first.
        """
        if not self._is_compressed(clock.step, clock):
            return topology.all()
        return topology.all_but(_SCOPES[self.scope](topology, values, strategy_state.counts))

    @hookimpl
    def metrics(self, topology: Topology, clock: Clock, strategy_state: CompressedCounts) -> dict[str, float]:
        """Report the number of weights of the phase that begins."""
        return {"target": float(self.target_size(topology, clock, strategy_state))}

    def _is_compressed(self, step: int, clock: Clock) -> bool:
        """Return whether the step after so many finished ones is in a compressed phase of the run."""
        if clock.total_steps is None:
            raise InputError("phases are fractions of the run; give the total number of steps (total_steps)")
        if step < 1:
            return False
        now = Fraction(step, clock.total_steps)
        if step >= clock.total_steps - 1 or now >= as_written(self.last):
            return True
        if not as_written(self.begin) <= now < as_written(self.until):
            return False
        return (now - as_written(self.begin)) // as_written(self.phase) % 2 == 0


def _network(topology: Topology, values: Array, counts: Counts) -> Array:
    return smallest_of_all(topology, values, max(0, topology.size - int(counts.sum())))


def _tensor(topology: Topology, values: Array, counts: Counts) -> Array:
    return smallest_of_each(topology, values, np.maximum(0, topology.counts - counts))


_SCOPES: Mapping[str, Callable[[Topology, Array, Counts], Array]] = MappingProxyType(
    {"network": _network, "tensor": _tensor}
)
"""Functions that return the slots of the weights that are pruned, so that so many are left."""

_COUNTED: Mapping[str, Callable[[Counts], Counts]] = MappingProxyType(
    {"network": lambda counts: counts.sum(keepdims=True), "tensor": lambda counts: counts.copy()}
)
