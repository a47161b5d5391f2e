"""The engine: a stack of strategies for one network, as functions from state to state."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from sparsecore.engine import validation
from sparsecore.engine.arrays import Array, Arrays, DenseValues, Gradient, InputNorms, WeightMomentum
from sparsecore.engine.distributions import check_sparsity
from sparsecore.engine.forward_view import VisibleWeights
from sparsecore.engine.gradients import GradientRequests, StepGradients, check_units_have_one_input
from sparsecore.engine.perturbation import check_finite_before_update, perturbed_gradient, perturbed_values
from sparsecore.engine.planning import Planner
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation, RegrowPruned
from sparsecore.engine.schedules import Clock
from sparsecore.engine.stack import StrategyStack, strategies_by_name
from sparsecore.engine.stacking import check_stack
from sparsecore.engine.start import Starter, becomes_sparser, warn_of_other_sparsity
from sparsecore.engine.state import State
from sparsecore.engine.step import Advance, StepPlan
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import SingleWeights, Units, unit_map
from sparsecore.engine.update import Updater, check_moves_units, frozen_slots, frozen_tensors, regrow_pruned_of
from sparsecore.engine.weight_updates import WeightUpdater
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.errors import InputError


class Engine:
    """Reallocates the weights of one network by a stack of strategies; the engine itself holds no state of a run.

    Args:
        layout: the sparse tensors.
        strategies: instances by name, bottom first, or instances alone (named by their class).
        arrays: the array operations of the backend that holds positions and values.
        seed: the seed of all random numbers.
        regrow_pruned: whether what was just pruned may grow again in the same update: False, True, or 'keep', with
            which it keeps its value and its optimizer state. None for 'keep' where a strategy implements
            ``keep_regrown``, and False elsewhere.
        units: what is pruned and grown as one. Strategies see a layout of units; states, values and reallocations
            here are of weights.
        young: what weights get that have grown recently, whatever the strategies say; None for what they say.

    Raises:
        PluginError: a strategy cannot be registered; the message says why.
        InputError: a tensor is not made of whole units, a strategy changes single weights of larger ones, strategies
            contradict each other, or ``regrow_pruned`` has no meaning.
    """

    def __init__(
        self,
        layout: Layout,
        strategies: Mapping[str, object] | Sequence[object],
        *,
        arrays: Arrays,
        seed: int = 0,
        regrow_pruned: RegrowPruned | None = None,
        units: Units = SingleWeights(),
        young: YoungWeights | None = None,
    ) -> None:
        self.layout = layout
        self.units = units
        self.arrays = arrays
        self.random = Randomness(seed)
        self.strategies = MappingProxyType(strategies_by_name(strategies))
        self.given_young_weights = young
        self._stack = StrategyStack(self.strategies)
        self.regrow_pruned = regrow_pruned_of(self.strategies.values(), regrow_pruned)
        check_stack(self._stack, self.strategies)
        self.gradient_perturbers = tuple(self._stack.implementers("perturb_gradient"))
        self._observes = bool(self._stack.implementers("observe"))
        self.gradient_requests = GradientRequests.of(self._stack)
        self.unit_map = unit_map(layout, units)
        self._starter = Starter(self._stack, self.random, arrays, self.unit_map)
        self._planner = Planner.of(self._stack, self.random, self.unit_map, self.gradient_requests)
        self._update = WeightUpdater(
            Updater(self._stack, self.random, self.regrow_pruned), self.gradient_requests, self.unit_map
        )
        if self.unit_map.largest > 1:
            check_moves_units(self._stack, units)
            check_units_have_one_input(self.gradient_requests, self.unit_map, units)

    def start(self, sparsity: float, *, clock: Clock = Clock(), values: DenseValues | None = None) -> State:
        """Return the state before the first step.

        Args:
            sparsity: the share of positions that are inactive, in [0, 1).
            clock: the time of the start.
            values: as of :meth:`initial_topology`.

        Raises:
            InputError: the sparsity is not in [0, 1), a strategy refuses it, or one asks for the values and there are
                none.
            InvariantError: a plugin broke a promise.
        """
        return self._starter.state(self.initial_topology(sparsity, values), sparsity, clock, values)

    def initial_topology(self, sparsity: float, values: DenseValues | None = None) -> Topology:
        """Return the active positions that the strategies choose for the start.

        Args:
            sparsity: the share of positions that are inactive, in [0, 1).
            values: the network's initial values, (D_i,) by the tensor's name, on the backend; it is called by a
                strategy that asks for them.

        Raises:
            InputError: the sparsity is not in [0, 1), a strategy refuses it, or one asks for the values and there are
                none.
            InvariantError: a plugin broke a promise.
        """
        return self._starter.topology(sparsity, values)

    @property
    def starts_by_values(self) -> bool:
        """Whether a strategy asks for the network's initial values to choose the positions at the start."""
        return bool(self._stack.plugins_requesting("values", "initial_topology"))

    def warn_of_other_sparsity(self, topology: Topology, sparsity: float, stacklevel: int = 2) -> None:
        """Warn if the sparsity at the start differs from the requested one by more than rounding.

        Each tensor may round to whole units. Strategies that become sparser, or say at each update how many weights
        there are to be, start elsewhere on purpose.

        Args:
            topology: the active positions at the start.
            sparsity: the requested sparsity.
            stacklevel: as of ``warnings.warn``, counted from the caller of this method.
        """
        warn_of_other_sparsity(self._stack, topology, sparsity, self.unit_map.largest, stacklevel + 1)

    def start_at(
        self,
        topology: Topology,
        *,
        sparsity: float | None = None,
        clock: Clock = Clock(),
        values: DenseValues | None = None,
    ) -> State:
        """Return the state before the first step, on a given topology.

        Args:
            topology: the active positions.
            sparsity: what strategies that become sparser are to end at; None for that of the topology.
            clock: the time of the start.
            values: as of :meth:`initial_topology`.

        Raises:
            InputError: it is of another layout, not sound, or has parts of units; or a strategy asks for the values
                and there are none.
        """
        validation.check_given_topology(topology, self.layout, self.unit_map)
        end = topology.sparsity if sparsity is None else check_sparsity(sparsity)
        return self._starter.state(topology, end, clock, values)

    @property
    def becomes_sparser(self) -> bool:
        """Whether a strategy starts denser and ends at the requested sparsity.

        Such a strategy requests ``sparsity`` in ``initial_strategy_state``.
        """
        return becomes_sparser(self._stack)

    @property
    def has_distribution(self) -> bool:
        """Whether a strategy decides itself how many weights each tensor starts with."""
        return bool(self._stack.implementers("initial_topology"))

    @property
    def keeps_size(self) -> bool:
        """Whether there are as many weights after every update as before it."""
        return not self._stack.implementers("target_size")

    def start_values(self, state: State, values: Array) -> Array:
        """Return the values before the first step, from those that the model draws.

        Args:
            state: the state before the first step.
            values: (N,), one a weight; read, not written to.

        Raises:
            InvariantError: a strategy returned other than N finite values of the same dtype.
        """
        result = self._stack.first_result(
            "start_values", topology=state.topology, values=values, random=self.random.child("start values")
        )
        return validation.check_values(result, "start_values", state.topology, values)

    def young_weights(self) -> YoungWeights:
        """Return what weights get that have grown recently, under an optimizer with Adam's bias correction.

        Raises:
            InvariantError: a strategy returned something else.
        """
        if self.given_young_weights is not None:
            return self.given_young_weights
        return validation.check_young_weights(self._stack.first_result("young_weights", layout=self.unit_map.layout))

    def visible_weights(self, state: State) -> VisibleWeights:
        """Return which weights the network computes with.

        Args:
            state: the state before a step.

        Raises:
            InvariantError: a strategy returned other than one bool a weight, or makes all weights of a tensor silent.
        """
        units = self.unit_map.units(state.topology)
        result = self._stack.first_result("forward_view", topology=units, strategy_state=state.strategy_states)
        mask, counts = validation.check_forward_view(result, units)
        return VisibleWeights(self.unit_map.spread(mask, state.topology), self.unit_map.weight_counts(counts))

    @property
    def has_silent_weights(self) -> bool:
        """Whether a strategy decides which weights the network computes with."""
        return bool(self._stack.implementers("forward_view"))

    def plan(self, state: State) -> StepPlan:
        """Ask the strategies what they will do at the next optimizer step.

        Args:
            state: the state before the step.
        """
        return self._planner.plan(state)

    def candidates(self, state: State) -> Topology | None:
        """Return the inactive positions whose gradients an update of this state takes.

        Args:
            state: the state after the step that the update follows.

        Returns:
            Positions of weights; None where no strategy names any.

        Raises:
            InvariantError: a strategy returned positions that are active, out of range or not ascending.
        """
        return self._planner.candidates(state)

    def metrics(self, state: State) -> dict[str, float]:
        """Return the metrics that the strategies report, by the names of strategy and metric: 'dpr.threshold'.

        Args:
            state: the state that they are of; of an update, the one before it.

        Raises:
            InvariantError: a strategy reports what is no finite number, or under a name that is no identifier.
        """
        if not self._stack.implementers("metrics"):
            return {}
        units = self.unit_map.units(state.topology)
        results = self._stack.all_results(
            "metrics", topology=units, clock=state.clock, strategy_state=state.strategy_states
        )
        return validation.check_metrics(results)

    def first_update(self, state: State) -> int | None:
        """Return the number of the step after which the first update is due, judged by this state's strategy states.

        Args:
            state: the state from whose clock on steps are counted.

        Returns:
            Counted from the run's beginning, so above ``state.clock.step``; None where the run ends before, or has no
            end.
        """
        return self._planner.first_update(state)

    @property
    def stack(self) -> StrategyStack:
        """The strategies with their hooks, for modules of the engine that ask these."""
        return self._stack

    @property
    def replaces_steps(self) -> bool:
        """Whether a strategy may replace a step of the optimizer by its update."""
        return bool(self._stack.implementers("replaces_step"))

    @property
    def moves_weights(self) -> bool:
        """Whether a strategy prunes, so that updates are to be expected."""
        return bool(self._stack.implementers("prune"))

    def advance(
        self,
        state: State,
        values: Array,
        learning_rate: float | None = 0.0,
        gradient: Gradient | None = None,
        frozen: Collection[str] = (),
        plan: StepPlan | None = None,
        *,
        weight_gradient: Array | None = None,
        candidate_gradient: Array | None = None,
        momentum: WeightMomentum | None = None,
        input_norms: InputNorms | None = None,
    ) -> Advance:
        """Do what follows an optimizer step: perturb the values, observe the gradients, and update where that is due.

        Args:
            state: the state before the step.
            values: the N values after it.
            learning_rate: of the step; None where the optimizer chooses its own.
            gradient: the dense gradients of the step, for the strategies that ask for them.
            frozen: names of tensors whose weights keep their positions and values, as for :meth:`update`.
            plan: that of :meth:`plan` for this state; None to make it here.
            weight_gradient: the gradients of the active weights, (N,), for the strategies that ask for them; None to
                take them from the dense ones.
            candidate_gradient: those of the plan's candidates, one entry for each; None to take them likewise.
            momentum: the optimizer's momentum of the active weights after the step; None where it has none.
            input_norms: the norms of the layers' inputs in the step, for the strategies that ask for them.

        Raises:
            InputError: a strategy needs the learning rate or the gradient and there is none, or the plan is of another
                state; or as :meth:`update` does.
            InvariantError: a plugin broke a promise.
            NoRoomError: more was pruned than can grow.
            DivergedError: a value is not finite.
        """
        plan = self.plan(state) if plan is None else plan
        if plan.state is not state:
            raise InputError("the plan is of another state than the one that is to advance")
        validation.check_given_values(values, state.topology)
        perturbed = self.perturbed(state, values, learning_rate, update_follows=plan.update_due)
        slots = frozen_slots(state.topology, frozen_tensors(self.layout, frozen))
        if slots is not None and perturbed is not values:
            perturbed = self.arrays.put(perturbed, slots, self.arrays.take(values, slots))
        gradients = StepGradients(
            gradient, weight_gradient, plan.candidates, candidate_gradient, momentum, input_norms=input_norms
        )
        now = self._update.observed(plan.next_state, gradients) if self._observes else plan.next_state
        if not plan.update_due:
            return Advance(now, perturbed, None)
        if perturbed is values:  # values that were perturbed have been checked
            check_finite_before_update(self._stack, values, state.topology)
        updated, reallocation = self._update(now, perturbed, gradients, frozen)
        return Advance(updated, reallocation.values, reallocation)

    def update(
        self,
        state: State,
        values: Array,
        gradient: Gradient | None = None,
        frozen: Collection[str] = (),
        *,
        weight_gradient: Array | None = None,
        candidate_gradient: Array | None = None,
        input_norms: InputNorms | None = None,
    ) -> tuple[State, Reallocation]:
        """Reallocate weights now, whether an update is due or not.

        Args:
            state: the state before it.
            values: the N values.
            gradient: the dense gradients, for the strategies that ask for them.
            frozen: names of tensors that are not trained at present: none of their weights is pruned, none grows
                there, and they have no part in the shares of what grows.
            weight_gradient: as of :meth:`advance`.
            candidate_gradient: those of :meth:`candidates`, one entry for each; None to take them from the dense ones.
            input_norms: as of :meth:`advance`.

        Returns:
            The state after the update, and what was pruned and grown.

        Raises:
            InputError: a strategy asks for gradients that there are not, or no tensor has a frozen one's name.
            InvariantError: a plugin broke a promise.
            NoRoomError: more was pruned than can grow.
            DivergedError: a value is not finite.
        """
        validation.check_given_values(values, state.topology)
        validation.check_finite_values(values, state.topology)
        gradients = StepGradients(
            gradient, weight_gradient, self.candidates(state), candidate_gradient, input_norms=input_norms
        )
        return self._update(state, values, gradients, frozen)

    def perturbed(
        self, state: State, values: Array, learning_rate: float | None, *, update_follows: bool = True
    ) -> Array:
        """Return the values after a step as the strategies change them, as DeepR's noise does.

        Args:
            state: the state before the step.
            values: the N values after it.
            learning_rate: of the step; None where the optimizer chooses its own.
            update_follows: as of :func:`sparsecore.engine.perturbation.perturbed_values`.

        Returns:
            N values; the given array itself where no strategy changes them.

        Raises:
            InputError: a strategy needs the learning rate, and there is none.
        """
        return perturbed_values(self._stack, state, values, learning_rate, self.random, update_follows=update_follows)

    def perturbed_gradient(self, state: State, values: Array, weight_gradient: Array) -> Array:
        """Return the gradient of the active weights as the strategies change it before the optimizer's step.

        Args:
            state: the state before the step.
            values: the N values before it.
            weight_gradient: their gradient, (N,); one that is not finite stays as it is.

        Returns:
            (N,); the given array itself where no strategy changes it.

        Raises:
            InputError: there is not one value or not one gradient a weight.
            InvariantError: a strategy returned other than N finite numbers of the same dtype.
        """
        return perturbed_gradient(self._stack, state, values, weight_gradient, self.random)
