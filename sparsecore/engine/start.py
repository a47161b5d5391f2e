"""The state before the first step: the active positions and the strategy states that strategies start with."""

import warnings

import attrs

from sparsecore.engine import validation
from sparsecore.engine.arrays import Arrays, DenseValues
from sparsecore.engine.distributions import check_sparsity
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.schedules import Clock
from sparsecore.engine.stack import DEFAULTS, StrategyStack
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.engine.units import UnitMap
from sparsecore.errors import InputError, SparsityWarning


@attrs.frozen(eq=False)
class Starter:
    """Asks a stack of strategies for the start of a run; the arguments are those of the methods of ``Engine``.

    Attributes:
        stack: the strategies.
        random: the run's random numbers.
        arrays: the array operations of the backend that holds positions and values.
        unit_map: the units of the layout's weights.
    """

    stack: StrategyStack
    random: Randomness
    arrays: Arrays
    unit_map: UnitMap

    def topology(self, sparsity: float, values: DenseValues | None) -> Topology:
        """Return the active positions that the strategies choose."""
        result = self.stack.first_result(
            "initial_topology",
            layout=self.unit_map.layout,
            sparsity=check_sparsity(sparsity),
            random=self.random.child("initial topology"),
            arrays=self.arrays,
            values=self._values(values, "initial_topology"),
        )
        return self.unit_map.weights(validation.check_initial_topology(result, self.unit_map.layout))

    def state(self, topology: Topology, sparsity: float, clock: Clock, values: DenseValues | None) -> State:
        """Return the state on these active positions, with the strategy states that the strategies start with."""
        units = self.unit_map.units(topology)
        results = self.stack.all_results(
            "initial_strategy_state",
            topology=units,
            sparsity=sparsity,
            random=self.random.child("initial memory"),
            values=self._values(values, "initial_strategy_state"),
        )
        return State(topology, validation.check_initial_strategy_states(results, units), clock)

    def _values(self, values: DenseValues | None, hook: str) -> DenseValues | None:
        """Return the initial values of units for a hook; None where there are none and no strategy takes them."""
        if values is not None:
            return self.unit_map.gradient(values, self.arrays)
        requesting = self.stack.plugins_requesting("values", hook)
        if requesting:
            raise InputError(
                f"the strategy {requesting[-1]!r} asks for the initial values at the start; start() and start_at() "
                "take them as values=, a function from a tensor's name to one entry for each of its positions"
            )
        return None


def becomes_sparser(stack: StrategyStack) -> bool:
    """Return whether a strategy starts denser and ends at the requested sparsity, for which it asks at the start."""
    return bool(stack.plugins_requesting("sparsity", "initial_strategy_state"))


def warn_of_other_sparsity(
    stack: StrategyStack, topology: Topology, sparsity: float, largest_unit: int, stacklevel: int
) -> None:
    """Warn if the sparsity at the start differs from the requested one by more than rounding.

    Args:
        stack: the strategies.
        topology: the active positions at the start.
        sparsity: the requested sparsity.
        largest_unit: the number of weights of the largest unit, to which each tensor may round.
        stacklevel: as of ``warnings.warn``, counted from the caller of this function.
    """
    layout = topology.layout
    size, requested = topology.size, (1.0 - sparsity) * layout.size
    is_meant = becomes_sparser(stack) or bool(stack.implementers("target_size"))
    if is_meant or abs(size - requested) <= len(layout) * largest_unit:
        return
    name = [*stack.implementers("initial_topology"), DEFAULTS][0]
    warnings.warn(
        f"the requested sparsity is {sparsity:g}, but the strategy {name!r} starts at "
        f"{topology.sparsity:.4f}, with {size:,} weights in place of {round(requested):,}",
        SparsityWarning,
        stacklevel=stacklevel + 1,
    )
