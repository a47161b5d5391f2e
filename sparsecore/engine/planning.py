"""The plan of an optimizer step: what strategies say before it that they will do."""

from collections.abc import Iterator

import attrs

from sparsecore.engine import validation
from sparsecore.engine.gradients import GradientRequests, named_candidates
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.state import State
from sparsecore.engine.step import StepPlan
from sparsecore.engine.topology import Topology
from sparsecore.engine.units import UnitMap
from sparsecore.engine.update import target_size_result


@attrs.frozen(eq=False)
class Planner:
    """Plans optimizer steps by a stack of strategies; it holds what is the same for all steps of a run.

    Attributes:
        stack: the strategies.
        random: the run's random numbers.
        unit_map: the units of the layout's weights.
        requests: which gradients the strategies ask for.
        perturbs_gradient: whether a strategy changes gradients before the step.
        replaces: whether a strategy may replace a step by its update.
        acts_always: whether something follows steps without an update: a strategy perturbs values or observes.
    """

    stack: StrategyStack
    random: Randomness
    unit_map: UnitMap
    requests: GradientRequests
    perturbs_gradient: bool
    replaces: bool
    acts_always: bool

    @classmethod
    def of(cls, stack: StrategyStack, random: Randomness, unit_map: UnitMap, requests: GradientRequests) -> "Planner":
        """Return the planner of a stack.

        Args:
            stack: the strategies.
            random: the run's random numbers.
            unit_map: the units of the layout's weights.
            requests: which gradients the strategies ask for.
        """
        return cls(
            stack,
            random,
            unit_map,
            requests,
            perturbs_gradient=bool(stack.implementers("perturb_gradient")),
            replaces=bool(stack.implementers("replaces_step")),
            acts_always=bool(stack.implementers("perturb") or stack.implementers("observe")),
        )

    def plan(self, state: State) -> StepPlan:
        """Return the plan of the next step.

        Args:
            state: the state before the step.
        """
        after = _ticked(state)
        update_due = self._is_update_due(after)
        replaces_step = update_due and self.replaces and self._decides("replaces_step", after)
        return StepPlan(
            state=state,
            next_state=after,
            update_due=update_due,
            wants_gradient=self.requests.wants_dense(update_due=update_due),
            wants_weight_gradient=self.requests.wants_weight(update_due=update_due),
            wants_input_norms=update_due and bool(self.requests.inputs),
            replaces_step=replaces_step,
            candidates=self.candidates(after) if update_due else None,
            perturbs_gradient=self.perturbs_gradient and not replaces_step,
            is_idle=not (update_due or self.acts_always),
        )

    def candidates(self, state: State) -> Topology | None:
        """Return the inactive positions whose gradients an update of this state takes; None if there are none.

        Args:
            state: the state after the step that the update follows.

        Raises:
            InvariantError: a strategy returned positions that are active, out of range or not ascending.
        """
        if not self.requests.names_candidates:
            return None
        of_units = attrs.evolve(state, topology=self.unit_map.units(state.topology))
        return self.unit_map.weights(named_candidates(self.stack, of_units, self.random))

    def first_update(self, state: State) -> int | None:
        """Return the number of the step after which the first update is due; None if there is none, or no end.

        Args:
            state: the state from whose clock on steps are counted, and by whose strategy states they are judged.
        """
        steps = (now.clock.step for now in _later(state) if self._decides("update_due", now))
        return next(steps, None)

    def _is_update_due(self, now: State) -> bool:
        """Return whether an update is due at this state's clock that can do something."""
        # after the last step nothing would train what has grown, and a full topology has nowhere to move to
        if now.clock.has_ended or not self._decides("update_due", now):
            return False
        if now.topology.size < now.topology.layout.size:
            return True
        units = self.unit_map.units(now.topology)
        if self._has_silent(units, now):  # others may become silent
            return True
        target = target_size_result(self.stack, attrs.evolve(now, topology=units), units.counts, units.room)
        return bool(target.value != units.size)

    def _has_silent(self, units: Topology, now: State) -> bool:
        """Return whether there are weights that the network does not compute with."""
        if not self.stack.implementers("forward_view"):
            return False
        result = self.stack.first_result("forward_view", topology=units, strategy_state=now.strategy_states)
        _, counts = validation.check_forward_view(result, units)
        return int(counts.sum()) < units.size

    def _decides(self, hook: str, now: State) -> bool:
        result = self.stack.first_result(hook, clock=now.clock, strategy_state=now.strategy_states)
        # asked at every step, and nearly always answered by a bool of Python
        return result.value if isinstance(result.value, bool) else validation.check_bool(result, hook)


def _ticked(state: State) -> State:
    return State(state.topology, state.strategy_states, state.clock.tick())


def _later(state: State) -> Iterator[State]:
    """Yield the state at each later step before the last one; nothing if the run has no end."""
    now = _ticked(state)
    while now.clock.total_steps is not None and not now.clock.has_ended:
        yield now
        now = _ticked(now)
