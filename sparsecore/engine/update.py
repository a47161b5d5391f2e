"""One update of a state: Algorithm 1 with the decisions of a stack of strategies, and their states after it."""

from collections.abc import Collection, Iterable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine import validation
from sparsecore.engine.arrays import Array, Counts, constant
from sparsecore.engine.gradients import StepGradients
from sparsecore.engine.hooks import HookResult
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation, RegrowPruned, check_regrow_pruned, reallocate, without_emptied
from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.state import State, StrategyStates, carry_strategy_state
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import Units
from sparsecore.errors import InputError, NoRoomError


@attrs.frozen(eq=False)
class Updater:
    """Updates states by a stack of strategies; it holds what is the same for all updates of a run.

    Attributes:
        stack: the strategies.
        random: the run's random numbers.
        regrow_pruned: whether what was just pruned may grow again in the same update, and then keeps its value.
    """

    stack: StrategyStack
    random: Randomness
    regrow_pruned: RegrowPruned

    def __call__(
        self, state: State, values: Array, gradients: StepGradients, frozen: NDArray[np.bool_]
    ) -> tuple[State, Reallocation]:
        """Reallocate the weights of a state.

        Args:
            state: the state before the update, of units.
            values: one value a unit.
            gradients: those that the strategies ask for, of units.
            frozen: for each tensor whether its weights stay as they are.

        Returns:
            The state after the update, and what was pruned and grown.
        """
        random = self.random.child("update", state.clock.updates)
        keeps_regrown = self.regrow_pruned == "keep"
        steps = StrategySteps(self.stack, state, values, random, gradients.without(frozen), frozen, keeps_regrown)
        reallocation, strategy_states = reallocate(state.topology, values, steps, regrow_pruned=self.regrow_pruned)
        validation.check_reallocation(reallocation)
        carried = {name: carry_strategy_state(own, reallocation.carry) for name, own in strategy_states.items()}
        results = self.stack.all_results(
            "remember", reallocation=reallocation, clock=state.clock, strategy_state=carried, random=random
        )
        remembered = validation.check_strategy_states(carried, results, reallocation.after)
        after = State(reallocation.after, remembered, state.clock.updated())
        self.stack.all_results(
            "reallocated", reallocation=reallocation, clock=after.clock, strategy_state=after.strategy_states
        )
        return after, reallocation


@attrs.frozen(eq=False)
class StrategySteps:
    """The steps of Algorithm 1 as the strategies decide them, checked (:class:`sparsecore.engine.reallocation.Steps`).

    Attributes:
        stack: the strategies.
        state: the state before the update.
        values: the N values.
        random: the random numbers of this update.
        gradients: those that the strategies ask for, without candidates in frozen tensors.
        frozen: for each tensor whether it is frozen: its weights all survive, and none grows there.
        keeps_regrown: whether what is pruned and grows again in this update keeps its value.
    """

    stack: StrategyStack
    state: State
    values: Array
    random: Randomness
    gradients: StepGradients
    frozen: NDArray[np.bool_]
    keeps_regrown: bool

    def prune(self, topology: Topology, values: Array) -> Array:
        """Return which weights survive, one bool a weight; those of frozen tensors all do."""
        result = self._first_result(
            "prune", topology=topology, values=values, keeps_regrown=self.keeps_regrown, **self._gradient_arguments
        )
        survives = validation.check_survivors(result, "prune", topology)
        if self.stack.implementers("revise_pruning"):
            # what each tensor keeps in any case counts where a strategy prunes or keeps up to a number of weights
            survives = topology.arrays.readonly(without_emptied(topology, values, survives)[0])
            result = self._first_result("revise_pruning", topology=topology, values=values, survives=survives)
            survives = validation.check_survivors(result, "revise_pruning", topology)
        slots = frozen_slots(topology, self.frozen)
        return survives if slots is None else topology.arrays.put(survives, slots, True)

    def adjust(self, pruned: Counts, survivors: Counts) -> StrategyStates:
        """Return the strategy states for the next update."""
        state = self.state
        results = self.stack.all_results(
            "adjust",
            pruned=pruned,
            survivors=survivors,
            topology=state.topology,
            values=self.values,
            clock=state.clock,
            strategy_state=state.strategy_states,
        )
        return validation.check_strategy_states(state.strategy_states, results, state.topology)

    def allocate(self, pruned: Counts, survivors: Counts, room: Counts) -> Counts:
        """Return how many weights grow in each tensor.

        Raises:
            NoRoomError: more is to grow than there are free positions.
        """
        layout = self.state.topology.layout
        # frozen tensors keep all their weights, whatever number the strategy wants, and have no part in the shares
        survivors_elsewhere = np.where(self.frozen, 0, survivors)
        room = np.where(self.frozen, 0, room)
        result = target_size_result(self.stack, self.state, survivors, constant(room))
        target = validation.check_target_size(result, survivors_elsewhere, layout)
        total = max(0, target - int(survivors.sum()))
        if self.frozen.any():  # a network that is to become denser does so as far as it is trained
            total = min(total, max(int(pruned.sum()), int(room.sum())))
        if total > room.sum():
            raise NoRoomError(_no_room(total, room, layout))
        result = self._first_result(
            "allocate",
            total=total,
            pruned=pruned,
            survivors=constant(survivors_elsewhere),
            room=constant(room),
            layout=layout,
            topology=self.state.topology,
            values=self.values,
            keeps_regrown=self.keeps_regrown,
            **self._gradient_arguments,
        )
        return validation.check_counts(result, total, room, layout)

    def grow(self, occupied: Topology, counts: Counts, kept: Topology) -> Array:
        """Return the positions that grow, ascending."""
        result = self._first_result(
            "grow",
            occupied=occupied,
            counts=counts,
            topology=self.state.topology,
            values=self.values,
            kept=kept,
            **self._gradient_arguments,
        )
        return validation.check_grown(result, occupied, counts)

    def keep_regrown(self, topology: Topology, values: Array) -> Array:
        """Return which weights keep their value if they are pruned and grow again, one bool a weight."""
        result = self._first_result("keep_regrown", topology=topology, values=values)
        return validation.check_survivors(result, "keep_regrown", topology)

    def initial_values(self, grown: Topology, values: Array) -> Array:
        """Return the values of the weights that have grown."""
        result = self._first_result("initial_values", grown=grown, values=values)
        return validation.check_values(result, "initial_values", grown, values)

    def initial_momentum(self, grown: Topology, values: Array) -> Array | None:
        """Return the optimizer's momentum of the weights that have grown; None where no strategy chooses it."""
        if not self.stack.implementers("initial_momentum"):
            return None
        return validation.check_momentum(self._first_result("initial_momentum", grown=grown, values=values), grown)

    @property
    def _gradient_arguments(self) -> dict[str, Any]:
        return self.gradients.as_arguments(self.state.topology.arrays)

    def _first_result(self, hook: str, **arguments: Any) -> HookResult:
        clock, strategy_states = self.state.clock, self.state.strategy_states
        return self.stack.first_result(
            hook, clock=clock, strategy_state=strategy_states, random=self.random, **arguments
        )


def frozen_tensors(layout: Layout, names: Collection[str]) -> NDArray[np.bool_]:
    """Return for each of the T tensors of a layout whether its name is among these, (T,).

    Raises:
        InputError: no tensor has one of the names.
    """
    frozen = np.zeros(len(layout), bool)
    frozen[[layout.index(name) for name in names]] = True
    return frozen


def frozen_slots(topology: Topology, frozen: NDArray[np.bool_]) -> Array | None:
    """Return the slots of all weights in frozen tensors, ascending; None where no tensor is frozen.

    Args:
        topology: the N active positions.
        frozen: for each of the T tensors whether it is frozen, (T,).

    Returns:
        int64 in [0, N), on the backend.
    """
    tensors = np.flatnonzero(frozen)
    if not len(tensors):
        return None
    slots = [np.arange(topology.bounds[tensor], topology.bounds[tensor + 1]) for tensor in tensors]
    return topology.arrays.from_numpy(np.concatenate(slots))


def target_size_result(stack: StrategyStack, state: State, survivors: Counts, room: Counts) -> HookResult:
    """Ask the topmost strategy for the number of weights after the update that is due now (``target_size``).

    Args:
        stack: the strategies.
        state: the state before the update, of units.
        survivors: the units that survive in each tensor.
        room: the free positions of each tensor, none where it is frozen.

    Returns:
        The result, not yet checked (:func:`sparsecore.engine.validation.check_target_size`).
    """
    return stack.first_result(
        "target_size",
        topology=state.topology,
        survivors=survivors,
        room=room,
        clock=state.clock,
        strategy_state=state.strategy_states,
    )


def _no_room(total: int, room: Counts, layout: Layout) -> str:
    full = [name for name, free in zip(layout.names, room, strict=True) if free == 0]
    crowded = f"; no room at all in {', '.join(full)}" if full else f" in {', '.join(layout.names)}"
    return (
        f"{total} weights were pruned and are to grow, but only {room.sum()} positions are free{crowded}; "
        "prune less, start sparser, or let pruned weights grow again (regrow_pruned)"
    )


def observed(stack: StrategyStack, state: State, gradients: StepGradients) -> StrategyStates:
    """Return the strategy states after the strategies have seen the gradients of a step.

    Args:
        stack: the strategies.
        state: the state after the step, of units.
        gradients: of units, as far as strategies ask for them.

    Raises:
        InvariantError: a strategy returned a state of another type, or one that cannot be saved or carried along.
    """
    arguments = gradients.as_arguments(state.topology.arrays)
    results = stack.all_results(
        "observe",
        gradient=arguments["gradient"],
        weight_gradient=arguments["weight_gradient"],
        weight_momentum=gradients.momentum or (lambda _: None),
        topology=state.topology,
        clock=state.clock,
        strategy_state=state.strategy_states,
    )
    return validation.check_strategy_states(state.strategy_states, results, state.topology)


def regrow_pruned_of(strategies: Iterable[object], given: RegrowPruned | None) -> RegrowPruned:
    """Return whether what was pruned may grow again: what is given, or else what the strategies are made for.

    Args:
        strategies: the stack.
        given: the run's setting; None for 'keep' where a strategy implements ``keep_regrown``, and False elsewhere.

    Raises:
        InputError: what is given is neither False, True nor 'keep'.
    """
    if given is not None:
        return check_regrow_pruned(given)
    return "keep" if any(hasattr(strategy, "keep_regrown") for strategy in strategies) else False


def check_moves_units(stack: StrategyStack, units: Units) -> None:
    """Check that no strategy changes single weights where units have several.

    Args:
        stack: the strategies.
        units: the run's units, for the message.

    Raises:
        InputError: a strategy does; the message names it and the hook.
    """
    for hook in ("start_values", "perturb_gradient", "perturb"):
        implementers = stack.implementers(hook)
        if implementers:
            raise InputError(
                f"the strategy {implementers[0]!r} changes single weights (by {hook!r}) and cannot move units "
                f"of several, {units}; it needs units 'weights'"
            )
