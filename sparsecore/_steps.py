"""The decisions of one reallocation, asked of a stack of strategies and checked."""

from typing import Any

import attrs

from sparsecore import checks
from sparsecore._stack import Answer, Stack
from sparsecore.arrays import Array
from sparsecore.errors import NoRoomError
from sparsecore.gradient import Gradient
from sparsecore.layout import Layout
from sparsecore.memory import Memories
from sparsecore.randomness import Randomness
from sparsecore.shares import Counts
from sparsecore.state import State
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class AskedSteps:
    """See :class:`sparsecore.reallocation.Steps`."""

    stack: Stack
    state: State
    values: Array
    random: Randomness
    gradient: Gradient | None

    def prune(self, topology: Topology, values: Array) -> Array:
        return checks.check_survivors(
            self._ask("prune", topology=topology, values=values, gradient=self.gradient), topology
        )

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
        target = checks.check_target(
            ask_target(self.stack, self.state, survivors), survivors, self.state.topology.layout
        )
        total = target - int(survivors.sum())
        if total > room.sum():
            raise NoRoomError(_no_room(total, room, self.state.topology.layout))
        answer = self._ask(
            "allocate",
            total=total,
            pruned=pruned,
            survivors=survivors,
            room=room,
            layout=self.state.topology.layout,
            topology=self.state.topology,
            values=self.values,
            gradient=self.gradient,
        )
        return checks.check_counts(answer, total, room, self.state.topology.layout)

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
