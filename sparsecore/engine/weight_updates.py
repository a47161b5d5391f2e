"""Updates of states whose positions are those of weights, by strategies that see a layout of units."""

from collections.abc import Collection

import attrs

from sparsecore.engine.arrays import Array
from sparsecore.engine.gradients import GradientRequests, StepGradients
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import State
from sparsecore.engine.units import UnitMap
from sparsecore.engine.update import Updater, frozen_tensors, observed


@attrs.frozen(eq=False)
class WeightUpdater:
    """Translates states of weights into those of units, and what was pruned and grown back.

    Attributes:
        update: the update of states of units.
        gradient_requests: which gradients the strategies ask for.
        unit_map: the units of the run.
    """

    update: Updater
    gradient_requests: GradientRequests
    unit_map: UnitMap

    def __call__(
        self, state: State, values: Array, given: StepGradients, frozen: Collection[str]
    ) -> tuple[State, Reallocation]:
        """Reallocate the weights of a state.

        Args:
            state: the state before the update.
            values: (N,), finite, one a weight.
            given: the gradients that there are.
            frozen: names of tensors whose weights stay as they are.

        Returns:
            The state after the update, and what was pruned and grown, both of weights.

        Raises:
            InputError: a strategy asks for gradients that there are not, or no tensor has a frozen one's name.
        """
        topology, units = state.topology, self.unit_map
        gradients = self.gradient_requests.complete(given, topology).of_units(units, topology)
        of_units = attrs.evolve(state, topology=units.units(topology))
        scores = topology.arrays.readonly(units.values(values, topology))
        after, moved = self.update(of_units, scores, gradients, frozen_tensors(topology.layout, frozen))
        reallocation = units.expand(moved, topology, values)
        return attrs.evolve(after, topology=reallocation.after), reallocation

    def observed(self, state: State, given: StepGradients) -> State:
        """Return the state after the strategies have seen the gradients of a step.

        Args:
            state: the state after the step.
            given: the gradients that there are.

        Raises:
            InputError: a strategy asks for gradients that there are not.
        """
        topology, units = state.topology, self.unit_map
        gradients = self.gradient_requests.complete(given, topology, observed=True).of_units(units, topology)
        of_units = attrs.evolve(state, topology=units.units(topology))
        return attrs.evolve(state, strategy_states=observed(self.update.stack, of_units, gradients))
