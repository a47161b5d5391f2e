"""One update of a state, asked of a stack of strategies: the reallocation, and what they remember of it."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine import validation
from sparsecore.engine.arrays import Array, Counts, Gradient, constant
from sparsecore.engine.hooks import HookResult
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation, reallocate
from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.state import State, StrategyStates, carry_strategy_state
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import Units
from sparsecore.errors import InputError, NoRoomError


@attrs.frozen(eq=False)
class StrategySteps:
    """The strategies' decisions, checked; see :class:`sparsecore.engine.reallocation.Steps`.

    Attributes:
        stack: the strategies.
        state: before the update.
        values: of the N weights.
        random: the draws of this update.
        gradient: the dense gradients, where there are some.
        frozen: for each tensor whether it is frozen: its weights all survive, and none grows there.
    """

    stack: StrategyStack
    state: State
    values: Array
    random: Randomness
    gradient: Gradient | None
    frozen: NDArray[np.bool_]

    def prune(self, topology: Topology, values: Array) -> Array:
        """Which weights survive, by the strategies; those of frozen tensors all do."""
        survives = validation.check_survivors(
            self._ask("prune", topology=topology, values=values, gradient=self.gradient), topology
        )
        slots = frozen_slots(topology, self.frozen)
        return survives if slots is None else topology.arrays.put(survives, slots, True)

    def adjust(self, pruned: Counts, survivors: Counts) -> StrategyStates:
        """What the strategies remember from now on."""
        state = self.state
        answers = self.stack.all_results(
            "adjust",
            pruned=pruned,
            survivors=survivors,
            topology=state.topology,
            values=self.values,
            clock=state.clock,
            strategy_state=state.strategy_states,
        )
        return validation.check_strategy_states(state.strategy_states, answers, state.topology)

    def allocate(self, pruned: Counts, survivors: Counts, room: Counts) -> Counts:
        """How many weights grow in each tensor."""
        layout = self.state.topology.layout
        # what is frozen has all its weights still, whatever the strategy wants there to be
        asked = np.where(self.frozen, 0, survivors)
        room = np.where(self.frozen, 0, room)
        target = validation.check_target_size(target_size_result(self.stack, self.state, survivors), asked, layout)
        total = max(0, target - int(survivors.sum()))
        if total > room.sum():
            raise NoRoomError(_no_room(total, room, layout))
        answer = self._ask(
            "allocate",
            total=total,
            pruned=pruned,
            survivors=constant(asked),
            room=constant(room),
            layout=layout,
            topology=self.state.topology,
            values=self.values,
            gradient=self.gradient,
        )
        return validation.check_counts(answer, total, room, layout)

    def grow(self, occupied: Topology, counts: Counts, kept: Topology) -> Array:
        """The positions that grow, ascending."""
        answer = self._ask(
            "grow",
            occupied=occupied,
            counts=counts,
            topology=self.state.topology,
            kept=kept,
            gradient=self.gradient,
        )
        return validation.check_grown(answer, occupied, counts)

    def initial_values(self, grown: Topology, values: Array) -> Array:
        """The values of what has grown."""
        return validation.check_values(
            self._ask("initial_values", grown=grown, values=values), "initial_values", grown, values
        )

    def _ask(self, hook: str, **arguments: Any) -> HookResult:
        return self.stack.first_result(
            hook, clock=self.state.clock, strategy_state=self.state.strategy_states, random=self.random, **arguments
        )


def frozen_slots(topology: Topology, frozen: NDArray[np.bool_]) -> Array | None:
    """The slots of all weights in frozen tensors, ascending; None where no tensor is."""
    tensors = np.flatnonzero(frozen)
    if not len(tensors):
        return None
    slots = [np.arange(topology.bounds[tensor], topology.bounds[tensor + 1]) for tensor in tensors]
    return topology.arrays.from_numpy(np.concatenate(slots))


def target_size_result(stack: StrategyStack, state: State, survivors: Counts) -> HookResult:
    """How many weights there are to be after the update that is due now."""
    return stack.first_result(
        "target_size",
        topology=state.topology,
        survivors=survivors,
        clock=state.clock,
        strategy_state=state.strategy_states,
    )


def _no_room(total: int, room: Counts, layout: Layout) -> str:
    full = [name for name, places in zip(layout.names, room, strict=True) if places == 0]
    crowded = f"; no room at all in {', '.join(full)}" if full else f" in {', '.join(layout.names)}"
    return (
        f"{total} weights were pruned and are to grow, but only {room.sum()} positions are free{crowded}; "
        "prune less, start sparser, or let pruned weights grow again (regrow_pruned)"
    )


@attrs.frozen(eq=False)
class Update:
    """What is the same for all updates of a run.

    Attributes:
        stack: the strategies.
        random: the run's draws.
        regrow_pruned: whether what was just pruned may grow again at once.
    """

    stack: StrategyStack
    random: Randomness
    regrow_pruned: bool

    def __call__(
        self, state: State, values: Array, gradient: Gradient | None, frozen: NDArray[np.bool_]
    ) -> tuple[State, Reallocation]:
        """One reallocation of this state, by these values; ``frozen`` says of each tensor whether it stays as it is."""
        random = self.random.child("update", state.clock.updates)
        steps = StrategySteps(self.stack, state, values, random, gradient, frozen)
        reallocation, strategy_states = reallocate(state.topology, values, steps, regrow_pruned=self.regrow_pruned)
        validation.check_reallocation(reallocation)
        carried = {
            name: carry_strategy_state(strategy_state, reallocation.carry)
            for name, strategy_state in strategy_states.items()
        }
        answers = self.stack.all_results(
            "remember", reallocation=reallocation, clock=state.clock, strategy_state=carried, random=random
        )
        remembered = validation.check_strategy_states(carried, answers, reallocation.after)
        after = State(reallocation.after, remembered, state.clock.updated())
        self.stack.all_results(
            "reallocated", reallocation=reallocation, clock=after.clock, strategy_state=after.strategy_states
        )
        return after, reallocation


def observed(stack: StrategyStack, state: State, gradient: Gradient | None) -> State:
    """The state after the strategies have seen the dense gradients of a step."""
    answers = stack.all_results(
        "observe", gradient=gradient, topology=state.topology, clock=state.clock, strategy_state=state.strategy_states
    )
    return attrs.evolve(
        state, strategy_states=validation.check_strategy_states(state.strategy_states, answers, state.topology)
    )


def check_moves_units(stack: StrategyStack, units: Units) -> None:
    """Refuse a strategy that changes single weights, where units have several."""
    for hook in ("start_values", "perturb"):
        implementers = stack.implementers(hook)
        if implementers:
            raise InputError(
                f"the strategy {implementers[0]!r} changes single weights (by {hook!r}) and cannot move units "
                f"of several, {units}; it needs units 'weights'"
            )
