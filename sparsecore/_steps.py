"""The decisions of one reallocation, asked of a stack of strategies and checked."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore import checks
from sparsecore._stack import Answer, Stack
from sparsecore.arrays import Array
from sparsecore.errors import NoRoomError
from sparsecore.gradient import Gradient
from sparsecore.layout import Layout
from sparsecore.memory import Memories
from sparsecore.randomness import Randomness
from sparsecore.shares import Counts, constant
from sparsecore.state import State
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class AskedSteps:
    """The strategies' decisions, checked; see :class:`sparsecore.reallocation.Steps`.

    Attributes:
        stack: the strategies.
        state: before the update.
        values: of the N weights.
        random: the draws of this update.
        gradient: the dense gradients, where there are some.
        frozen: for each tensor whether it is frozen: its weights all survive, and none grows there.
    """

    stack: Stack
    state: State
    values: Array
    random: Randomness
    gradient: Gradient | None
    frozen: NDArray[np.bool_]

    def prune(self, topology: Topology, values: Array) -> Array:
        survives = checks.check_survivors(
            self._ask("prune", topology=topology, values=values, gradient=self.gradient), topology
        )
        slots = frozen_slots(topology, self.frozen)
        return survives if slots is None else topology.arrays.put(survives, slots, True)

    def adjust(self, pruned: Counts, survivors: Counts) -> Memories:
        state = self.state
        answers = self.stack.ask_all(
            "adjust",
            pruned=pruned,
            survivors=survivors,
            topology=state.topology,
            values=self.values,
            clock=state.clock,
            memory=state.memories,
        )
        return checks.check_memories(state.memories, answers, state.topology)

    def allocate(self, pruned: Counts, survivors: Counts, room: Counts) -> Counts:
        layout = self.state.topology.layout
        # what is frozen has all its weights still, whatever the strategy wants there to be
        asked = np.where(self.frozen, 0, survivors)
        room = np.where(self.frozen, 0, room)
        target = checks.check_target(ask_target(self.stack, self.state, survivors), asked, layout)
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
        return checks.check_counts(answer, total, room, layout)

    def grow(self, occupied: Topology, counts: Counts, kept: Topology) -> Array:
        answer = self._ask(
            "grow",
            occupied=occupied,
            counts=counts,
            topology=self.state.topology,
            kept=kept,
            gradient=self.gradient,
        )
        return checks.check_grown(answer, occupied, counts)

    def initial_values(self, grown: Topology, values: Array) -> Array:
        return checks.check_values(
            self._ask("initial_values", grown=grown, values=values), "initial_values", grown, values
        )

    def _ask(self, hook: str, **arguments: Any) -> Answer:
        return self.stack.ask(hook, clock=self.state.clock, memory=self.state.memories, random=self.random, **arguments)


def frozen_slots(topology: Topology, frozen: NDArray[np.bool_]) -> Array | None:
    """The slots of all weights in frozen tensors, ascending; None where no tensor is."""
    tensors = np.flatnonzero(frozen)
    if not len(tensors):
        return None
    slots = [np.arange(topology.bounds[tensor], topology.bounds[tensor + 1]) for tensor in tensors]
    return topology.arrays.from_numpy(np.concatenate(slots))


def ask_target(stack: Stack, state: State, survivors: Counts) -> Answer:
    """How many weights there are to be after the update that is due now."""
    return stack.ask(
        "target_size", topology=state.topology, survivors=survivors, clock=state.clock, memory=state.memories
    )


def _no_room(total: int, room: Counts, layout: Layout) -> str:
    full = [name for name, places in zip(layout.names, room, strict=True) if places == 0]
    crowded = f"; no room at all in {', '.join(full)}" if full else f" in {', '.join(layout.names)}"
    return (
        f"{total} weights were pruned and are to grow, but only {room.sum()} positions are free{crowded}; "
        "prune less, start sparser, or let pruned weights grow again (regrow_pruned)"
    )
