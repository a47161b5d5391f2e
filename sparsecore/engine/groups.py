"""One engine for each group of tensors of a training, which act as one: strategies differ from group to group."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TypeVar

import attrs

from sparsecore.engine.arrays import Array, Gradient, InputNorms, WeightMomentum
from sparsecore.engine.engine import Engine
from sparsecore.engine.forward_view import VisibleWeights
from sparsecore.engine.partition import Partition, unchanged
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.engine.step import Advance, StepPlan
from sparsecore.engine.topology import Layout, Topology

LearningRates = Sequence[float | None]
"""The learning rate that the strategies of each group get; None where the optimizer has none."""


@attrs.frozen(eq=False)
class GroupStates:
    """The state of a training between two steps.

    Attributes:
        topology: the active positions of all groups.
        states: of each group.
        clock: the steps that are finished, and those of them in which a group was updated.
    """

    topology: Topology
    states: tuple[State, ...]
    clock: Clock


@attrs.frozen(eq=False)
class GroupPlans:
    """What the strategies of all groups do at the next optimizer step.

    Attributes:
        state: the state before the step.
        plans: of each group.
        next_state: the state after the step where nothing but the clock changes.
        candidates: inactive positions at which strategies need the gradients of this step; None where there are none.
    """

    state: GroupStates
    plans: tuple[StepPlan, ...]
    next_state: GroupStates
    candidates: Topology | None

    @cached_property
    def wants_gradient(self) -> bool:
        """Whether a strategy needs the dense gradients of this step."""
        return any(plan.wants_gradient for plan in self.plans)

    @cached_property
    def wants_weight_gradient(self) -> bool:
        """Whether a strategy needs the gradients of the active weights of this step."""
        return any(plan.wants_weight_gradient for plan in self.plans)

    @cached_property
    def wants_input_norms(self) -> bool:
        """Whether a strategy needs the norms of the layers' inputs in this step."""
        return any(plan.wants_input_norms for plan in self.plans)

    @cached_property
    def replaces_step(self) -> bool:
        """Whether the update of a group replaces the optimizer's step, also for all other parameters."""
        return any(plan.replaces_step for plan in self.plans)

    @cached_property
    def perturbs_gradient(self) -> bool:
        """Whether a strategy changes the gradient of the active weights before the optimizer's step."""
        return not self.replaces_step and any(plan.perturbs_gradient for plan in self.plans)

    @cached_property
    def is_idle(self) -> bool:
        """Whether nothing follows the step."""
        return all(plan.is_idle for plan in self.plans)


@attrs.frozen(eq=False)
class GroupAdvance:
    """The result of :meth:`EngineGroups.advance`.

    Attributes:
        state: the state after the step.
        values: the N values after it; the given array itself where nothing changed them.
        reallocation: of all tensors; None where no group was updated.
    """

    state: GroupStates
    values: Array
    reallocation: Reallocation | None


AnyAdvance = TypeVar("AnyAdvance", Advance, GroupAdvance)
"""The result of advancing one engine, or the engines of all groups."""


@attrs.frozen(eq=False)
class EngineGroups:
    """The engines of a training; most trainings have one.

    Attributes:
        partition: the tensors of each engine.
        engines: one for each part.
        labels: the entries of ``strategy=`` and ``sparsity=`` that the groups are of, for summaries and state dicts.
    """

    partition: Partition
    engines: tuple[Engine, ...]
    labels: tuple[str, ...]

    @property
    def layout(self) -> Layout:
        """All sparse tensors."""
        return self.partition.layout

    @property
    def first_of_each(self) -> tuple[int, ...]:
        """The index in the layout of the first tensor of each group."""
        return tuple(self.layout.index(own.names[0]) for own in self.partition.parts)

    @property
    def regrow_pruned(self) -> bool:
        """Whether what was just pruned may grow again in the same update, in any group."""
        return any(engine.regrow_pruned for engine in self.engines)

    def metrics(self, state: GroupStates) -> dict[str, float]:
        """Return the metrics that the strategies report, by the names of strategy and metric: 'dpr.threshold'.

        Args:
            state: the state that they are of; of an update, the one before it.

        Returns:
            Where there are several groups, names end with that of the group: 'dpr.threshold/encoder.*'.

        Raises:
            InvariantError: a strategy reports what is no finite number, or under a name that is no identifier.
        """
        ends = [f"/{label}" for label in self.labels] if len(self.engines) > 1 else [""]
        parts = zip(self.engines, state.states, ends, strict=True)
        return {name + end: number for engine, own, end in parts for name, number in engine.metrics(own).items()}

    def described(self) -> dict[str, str]:
        """Return the strategies of each tensor, and the entry of its group; empty where there is one group."""
        if len(self.engines) == 1:
            return {}
        texts = [
            f"{' + '.join(one.strategies)} ({label})" for one, label in zip(self.engines, self.labels, strict=True)
        ]
        return {name: texts[part] for name, (part, _) in zip(self.layout.names, self.partition.places, strict=True)}

    def join(self, states: Sequence[State]) -> GroupStates:
        """Return the state of a training that starts.

        Args:
            states: of each group, at one time.
        """
        topology = self.partition.join([one.topology for one in states])
        return GroupStates(topology, tuple(states), states[0].clock)

    def at(self, topology: Topology, state: GroupStates) -> GroupStates:
        """Return the state on another topology, with the strategy states as they are.

        Args:
            topology: of all tensors.
            state: the present one.
        """
        owns = zip(state.states, self.partition.split(topology), strict=True)
        return GroupStates(topology, tuple(attrs.evolve(one, topology=own) for one, own in owns), state.clock)

    def start_values(self, state: GroupStates, values: Array) -> Array:
        """Return the values before the first step, from those that the model draws.

        Args:
            state: the state before the first step.
            values: (N,).

        Raises:
            InvariantError: a strategy returned other than N finite values of the same dtype.
        """
        entries = self.partition.split_vector(values, state.topology)
        owns = zip(self.engines, state.states, entries, strict=True)
        started = [engine.start_values(own, given) for engine, own, given in owns]
        if all(one is given for one, given in zip(started, entries, strict=True)):
            return values
        return self.partition.join_vectors(started, [one.topology for one in state.states])

    @property
    def has_silent_weights(self) -> bool:
        """Whether a strategy decides which weights the network computes with."""
        return any(engine.has_silent_weights for engine in self.engines)

    def visible_weights(self, state: GroupStates) -> VisibleWeights:
        """Return which weights the network computes with.

        Args:
            state: the state before a step.

        Raises:
            InvariantError: a strategy returned other than one bool a weight, or makes all weights of a tensor silent.
        """
        parts = [engine.visible_weights(own) for engine, own in zip(self.engines, state.states, strict=True)]
        mask = self.partition.join_vectors([one.mask for one in parts], [one.topology for one in state.states])
        return VisibleWeights(mask, self.partition.join_counts([one.counts for one in parts]))

    def check_learning_rates(self, state: GroupStates, values: Array, rates: LearningRates) -> None:
        """Check that no strategy needs a learning rate that there is not.

        Args:
            state: the state before the first step.
            values: (N,).
            rates: of each group.

        Raises:
            InputError: one does.
        """
        parts = zip(self.engines, state.states, self.partition.split_vector(values, state.topology), rates, strict=True)
        for engine, own, entries, rate in parts:
            if rate is None:
                engine.perturbed(own, entries, None)

    @property
    def measured_tensors(self) -> tuple[str, ...]:
        """The names of the tensors of groups in which a strategy asks for the norms of inputs."""
        return tuple(
            name
            for engine, own in zip(self.engines, self.partition.parts, strict=True)
            if engine.gradient_requests.inputs
            for name in own.names
        )

    @property
    def gradient_perturbers(self) -> tuple[str, ...]:
        """The names of the strategies that change the gradient of the active weights, each once."""
        return tuple(dict.fromkeys(name for engine in self.engines for name in engine.gradient_perturbers))

    def perturbed_gradient(self, state: GroupStates, values: Array, weight_gradient: Array) -> Array:
        """Return the gradient of the active weights as the strategies change it before the optimizer's step.

        Args:
            state: the state before the step.
            values: the N values before it.
            weight_gradient: their gradient, (N,).

        Returns:
            (N,); the given array itself where no strategy changes it.

        Raises:
            InvariantError: a strategy returned other than finite numbers of the same dtype.
        """
        split = self.partition.split_vector
        parts = zip(self.engines, state.states, split(values, state.topology), strict=True)
        gradients = split(weight_gradient, state.topology)
        changed = [
            engine.perturbed_gradient(own, entries, given)
            for (engine, own, entries), given in zip(parts, gradients, strict=True)
        ]
        if all(one is given for one, given in zip(changed, gradients, strict=True)):
            return weight_gradient
        return self.partition.join_vectors(changed, [one.topology for one in state.states])

    def plan(self, state: GroupStates) -> GroupPlans:
        """Ask the strategies what they will do at the next optimizer step.

        Args:
            state: the state before the step.
        """
        plans = tuple(engine.plan(own) for engine, own in zip(self.engines, state.states, strict=True))
        after = GroupStates(state.topology, tuple(plan.next_state for plan in plans), state.clock.tick())
        return GroupPlans(state, plans, after, self._joined_candidates(state, plans))

    def _joined_candidates(self, state: GroupStates, plans: Sequence[StepPlan]) -> Topology | None:
        if all(plan.candidates is None for plan in plans):
            return None
        return self.partition.join(
            [
                own.topology.at(own.topology.positions[:0]) if plan.candidates is None else plan.candidates
                for plan, own in zip(plans, state.states, strict=True)
            ]
        )

    def advance(
        self,
        plans: GroupPlans,
        values: Array,
        rates: LearningRates,
        gradient: Gradient,
        frozen: Collection[str],
        weight_gradient: Array | None = None,
        candidate_gradient: Array | None = None,
        momentum: WeightMomentum | None = None,
        input_norms: InputNorms | None = None,
    ) -> GroupAdvance:
        """Return the state after an optimizer step.

        Args:
            plans: of the step, made before it.
            values: the N values after the step.
            rates: of each group.
            gradient: the dense gradients.
            frozen: names of tensors that are not trained at present.
            weight_gradient: the gradients of the active weights, (N,), where a strategy needs them.
            candidate_gradient: those of the plans' candidates, one entry for each.
            momentum: the optimizer's momentum of the active weights after the step; None where it has none.
            input_norms: the norms of the layers' inputs in the step, where a strategy needs them.

        Raises:
            InvariantError: a plugin broke a promise.
            NoRoomError: more was pruned than can grow.
            DivergedError: a value is not finite.
        """
        state, partition = plans.state, self.partition
        active_of = self._split(weight_gradient, state.topology)
        candidate_of = self._split(candidate_gradient, plans.candidates)
        entries = partition.split_vector(values, state.topology)
        advances = [
            engine.advance(
                plan.state,
                own,
                rate,
                gradient,
                [name for name in frozen if name in layout.names],
                plan,
                weight_gradient=active,
                candidate_gradient=None if plan.candidates is None else candidate,
                momentum=momentum,
                input_norms=input_norms,
            )
            for engine, plan, own, rate, layout, active, candidate in zip(
                self.engines, plans.plans, entries, rates, partition.parts, active_of, candidate_of, strict=True
            )
        ]
        clock = state.clock.tick()
        if all(one.reallocation is None for one in advances):
            is_changed = any(one.values is not own for one, own in zip(advances, entries, strict=True))
            topologies = [one.topology for one in state.states]
            joined = partition.join_vectors([one.values for one in advances], topologies) if is_changed else values
            return GroupAdvance(GroupStates(state.topology, _states(advances), clock), joined, None)
        reallocation = partition.join_reallocations([_reallocation(one) for one in advances])
        after = GroupStates(reallocation.after, _states(advances), clock.updated())
        return GroupAdvance(after, reallocation.values, reallocation)

    def _split(self, entries: Array | None, positions: Topology | None) -> Sequence[Array | None]:
        if entries is None or positions is None:
            return [None] * len(self.engines)
        return self.partition.split_vector(entries, positions)


def _states(advances: Sequence[Advance]) -> tuple[State, ...]:
    return tuple(one.state for one in advances)


def _reallocation(advance: Advance) -> Reallocation:
    """The reallocation of a group, also of one without an update in this step."""
    if advance.reallocation is not None:
        return advance.reallocation
    return unchanged(advance.state.topology, advance.values)
