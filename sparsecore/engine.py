"""The engine: a stack of strategies over one layout, as functions from state to state."""

from collections.abc import Mapping, Sequence

import attrs

from sparsecore import checks
from sparsecore._stack import Stack, named
from sparsecore._steps import AskedSteps, ask_target
from sparsecore.arrays import Array, Arrays
from sparsecore.base import Base
from sparsecore.clock import Clock
from sparsecore.distributions import check_sparsity
from sparsecore.errors import InputError
from sparsecore.gradient import Gradient
from sparsecore.layout import Layout
from sparsecore.memory import carry_memory
from sparsecore.randomness import Randomness
from sparsecore.reallocation import Reallocation, reallocate
from sparsecore.state import State
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class Advance:
    """What followed an optimizer step.

    Attributes:
        state: the state after it.
        values: the N values after it; the given ones, where nothing changed them.
        reallocation: the update, where one was due.
    """

    state: State
    values: Array
    reallocation: Reallocation | None


class Engine:
    """Reallocates the weights of one network by a stack of strategies; holds no state of a run.

    Args:
        layout: the sparse tensors.
        strategies: instances by name, bottom first, or instances alone (named by their class).
        arrays: the verbs of the backend that holds positions and values.
        seed: the seed of every draw.
        regrow_pruned: whether what was just pruned may grow again in the same update.

    Raises:
        PluginError: a strategy cannot be registered; the message says why.
    """

    def __init__(
        self,
        layout: Layout,
        strategies: Mapping[str, object] | Sequence[object],
        *,
        arrays: Arrays,
        seed: int = 0,
        regrow_pruned: bool = False,
    ) -> None:
        self.layout = layout
        self.arrays = arrays
        self.random = Randomness(seed)
        self._regrow_pruned = regrow_pruned
        self._stack = Stack({"base": Base(), **named(strategies)})
        self._perturbs = self._stack.deciding("perturb") != ["base"]
        self._replaces = self._stack.deciding("replaces_step") != ["base"]
        self._observes = bool(self._stack.deciding("observe"))
        self._gradient_askers = self._stack.asking_for("gradient")

    def start(self, sparsity: float, *, clock: Clock = Clock()) -> State:
        """The state before the first step, at this sparsity (in [0, 1))."""
        random = self.random.within("initial topology")
        answer = self._stack.ask(
            "initial_topology", layout=self.layout, sparsity=check_sparsity(sparsity), random=random, arrays=self.arrays
        )
        return self._state_at(checks.check_start(answer, self.layout), sparsity, clock)

    def start_at(self, topology: Topology, *, sparsity: float | None = None, clock: Clock = Clock()) -> State:
        """The state before the first step, on a given topology.

        Args:
            topology: the active positions.
            sparsity: what strategies that become sparser are to end at; that of the topology where it is None.
            clock: the time.

        Raises:
            InputError: it is of another layout, or not sound.
        """
        checks.check_given_topology(topology, self.layout)
        return self._state_at(topology, topology.sparsity if sparsity is None else check_sparsity(sparsity), clock)

    def _state_at(self, topology: Topology, sparsity: float, clock: Clock) -> State:
        answers = self._stack.ask_all(
            "initial_memory", topology=topology, sparsity=sparsity, random=self.random.within("initial memory")
        )
        return State(topology, checks.check_first_memories(answers, topology), clock)

    def start_values(self, state: State, values: Array) -> Array:
        """The values before the first step, from those that the model draws."""
        answer = self._stack.ask(
            "start_values", topology=state.topology, values=values, random=self.random.within("start values")
        )
        return checks.check_values(answer, "start_values", state.topology, values)

    def quiet(self, state: State) -> State | None:
        """The state after an optimizer step that nothing follows; None where :meth:`advance` has to see the values.

        For those to whom the values cost something: they lie scattered in dense tensors, or on other machines.
        """
        now = _ticked(state)
        return None if self._perturbs or self._observes or self._moves(now) else now

    def wants_gradient(self, state: State) -> bool:
        """Whether a strategy asks for the dense gradient of the next step: for an update, or in every step."""
        return self._observes or (bool(self._gradient_askers) and self._moves(_ticked(state)))

    def replaces_step(self, state: State) -> bool:
        """Whether an update takes the place of the next optimizer step, which is then to be left out."""
        now = _ticked(state)
        return self._replaces and self._moves(now) and self._says("replaces_step", now)

    def advance(
        self, state: State, values: Array, learning_rate: float = 0.0, gradient: Gradient | None = None
    ) -> Advance:
        """What follows an optimizer step that led to ``values``: perturbation, and an update where one is due."""
        checks.check_given_values(values, state.topology)
        perturbed = self._perturb(state, values, learning_rate)
        now = self._observed(_ticked(state), gradient)
        if not self._moves(now):
            return Advance(now, perturbed, None)
        updated, reallocation = self.update(now, perturbed, gradient)
        return Advance(updated, reallocation.values, reallocation)

    def update(self, state: State, values: Array, gradient: Gradient | None = None) -> tuple[State, Reallocation]:
        """One reallocation now, due or not.

        Args:
            state: the state before it.
            values: the N values.
            gradient: the dense gradients, for the strategies that ask for them.

        Raises:
            InputError: a strategy asks for the dense gradient, and there is none.
            InvariantError: a plugin broke a promise.
            NoRoomError: more was pruned than can grow.
            DivergedError: a value is not finite.
        """
        checks.check_given_values(values, state.topology)
        checks.check_trained(values, state.topology)
        self._check_gradient(gradient)
        values = self.arrays.shown(values)
        steps = AskedSteps(self._stack, state, values, self.random.within("update", state.clock.updates), gradient)
        reallocation, memories = reallocate(state.topology, values, steps, regrow_pruned=self._regrow_pruned)
        checks.check_reallocation(reallocation)
        carried = {name: carry_memory(memory, reallocation.carry) for name, memory in memories.items()}
        answers = self._stack.ask_all(
            "remember", reallocation=reallocation, clock=state.clock, memory=carried, random=steps.random
        )
        after = State(
            reallocation.after, checks.check_memories(carried, answers, reallocation.after), state.clock.updated()
        )
        self._stack.ask_all("reallocated", reallocation=reallocation, clock=after.clock, memory=after.memories)
        return after, reallocation

    def _perturb(self, state: State, values: Array, learning_rate: float) -> Array:
        shown = self.arrays.shown(values)
        answer = self._stack.ask(
            "perturb",
            topology=state.topology,
            values=shown,
            learning_rate=learning_rate,
            clock=state.clock,
            memory=state.memories,
            random=self.random.within("perturb", state.clock.step),
        )
        if answer.value is shown:
            return values
        checks.check_trained(values, state.topology)
        return checks.check_values(answer, "perturb", state.topology, values)

    def _observed(self, now: State, gradient: Gradient | None) -> State:
        if not self._observes:
            return now
        self._check_gradient(gradient)
        answers = self._stack.ask_all(
            "observe", gradient=gradient, topology=now.topology, clock=now.clock, memory=now.memories
        )
        return attrs.evolve(now, memories=checks.check_memories(now.memories, answers, now.topology))

    def _check_gradient(self, gradient: Gradient | None) -> None:
        if gradient is None and self._gradient_askers:
            raise InputError(
                f"the strategy {self._gradient_askers[-1]!r} asks for the dense gradient, and this way of training "
                "does not give it"
            )

    def _moves(self, now: State) -> bool:
        """Whether an update is due that can do something."""
        # after the last step nothing would train what has grown, and a full topology has nowhere to move to
        if now.clock.has_ended or not self._says("update_due", now):
            return False
        topology = now.topology
        return topology.size < self.layout.size or ask_target(self._stack, now, topology.counts).value != topology.size

    def _says(self, hook: str, now: State) -> bool:
        return checks.check_truth(self._stack.ask(hook, clock=now.clock, memory=now.memories), hook)


def _ticked(state: State) -> State:
    return attrs.evolve(state, clock=state.clock.tick())
