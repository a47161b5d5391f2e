"""One update of a state, asked of a stack of strategies: the reallocation, and what they remember of it."""

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore import checks
from sparsecore._stack import Stack
from sparsecore._steps import AskedSteps
from sparsecore.arrays import Array
from sparsecore.errors import InputError
from sparsecore.gradient import Gradient
from sparsecore.memory import carry_memory
from sparsecore.randomness import Randomness
from sparsecore.reallocation import Reallocation, reallocate
from sparsecore.state import State
from sparsecore.units import Units


@attrs.frozen(eq=False)
class Update:
    """What is the same for all updates of a run.

    Attributes:
        stack: the strategies.
        random: the run's draws.
        regrow_pruned: whether what was just pruned may grow again at once.
    """

    stack: Stack
    random: Randomness
    regrow_pruned: bool

    def __call__(
        self, state: State, values: Array, gradient: Gradient | None, frozen: NDArray[np.bool_]
    ) -> tuple[State, Reallocation]:
        """One reallocation of this state, by these values; ``frozen`` says of each tensor whether it stays as it is."""
        random = self.random.within("update", state.clock.updates)
        steps = AskedSteps(self.stack, state, values, random, gradient, frozen)
        reallocation, memories = reallocate(state.topology, values, steps, regrow_pruned=self.regrow_pruned)
        checks.check_reallocation(reallocation)
        carried = {name: carry_memory(memory, reallocation.carry) for name, memory in memories.items()}
        answers = self.stack.ask_all(
            "remember", reallocation=reallocation, clock=state.clock, memory=carried, random=random
        )
        remembered = checks.check_memories(carried, answers, reallocation.after)
        after = State(reallocation.after, remembered, state.clock.updated())
        self.stack.ask_all("reallocated", reallocation=reallocation, clock=after.clock, memory=after.memories)
        return after, reallocation


def observed(stack: Stack, state: State, gradient: Gradient | None) -> State:
    """The state after the strategies have seen the dense gradients of a step."""
    answers = stack.ask_all(
        "observe", gradient=gradient, topology=state.topology, clock=state.clock, memory=state.memories
    )
    return attrs.evolve(state, memories=checks.check_memories(state.memories, answers, state.topology))


def check_moves_units(stack: Stack, units: Units) -> None:
    """Refuse a strategy that changes single weights, where units have several."""
    for hook in ("start_values", "perturb"):
        decider = stack.deciding(hook)[0]
        if decider != "base":
            raise InputError(
                f"the strategy {decider!r} changes single weights (it decides {hook!r}) and cannot move units of "
                f"several, {units}; it needs units 'weights'"
            )
