"""What strategies ask for of a step: gradients of all positions, active weights or candidates, and norms of inputs.

Only the first have an entry a position. A strategy that takes the others alone costs memory and time that grow with the
active weights and the candidates.
"""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, Gradient, InputNorms, WeightMomentum, counting_of, describe
from sparsecore.engine.hooks import HookResult
from sparsecore.engine.position_validation import (
    counts_per_tensor,
    describe_position,
    is_active,
    order_statistics,
    position_order_error,
    position_vector_error,
)
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.engine.units import UnitMap, Units
from sparsecore.errors import InputError, InvariantError


@attrs.frozen(eq=False)
class StepGradients:
    """The gradients of a step, as far as they are asked for.

    Attributes:
        dense: a function from a tensor's name to its dense gradient.
        of_weights: one entry for each active weight, in the order of the topology's positions.
        candidates: the positions that a strategy has named by its hook ``candidates``.
        of_candidates: one entry for each of them, in the order of their positions.
        momentum: a function from a tensor's name to the optimizer's momentum of its active weights, or to None.
        input_norms: a function from a tensor's name to the norms of its layer's inputs.
    """

    dense: Gradient | None = None
    of_weights: Array | None = None
    candidates: Topology | None = None
    of_candidates: Array | None = None
    momentum: WeightMomentum | None = None
    input_norms: InputNorms | None = None

    def of_units(self, unit_map: UnitMap, topology: Topology) -> "StepGradients":
        """Return the gradients of units: of several weights, the mean magnitude.

        Args:
            unit_map: the units.
            topology: the active weights.
        """
        candidates, entries = self.candidates, self.of_candidates
        return StepGradients(
            None if self.dense is None else unit_map.gradient(self.dense, topology.arrays),
            None if self.of_weights is None else unit_map.values(self.of_weights, topology),
            None if candidates is None else unit_map.units(candidates),
            None if entries is None or candidates is None else unit_map.values(entries, candidates),
            self.momentum if unit_map.largest == 1 else None,
            self.input_norms,
        )

    def as_arguments(self, arrays: Arrays) -> dict[str, Any]:
        """Return the arguments of hooks, by name.

        Args:
            arrays: the operations of the backend that holds them.
        """
        return {
            "gradient": self.dense,
            "weight_gradient": None if self.of_weights is None else arrays.readonly(self.of_weights),
            "candidates": self.candidates,
            "candidate_gradient": None if self.of_candidates is None else arrays.readonly(self.of_candidates),
            "input_norms": self.input_norms,
        }

    def without(self, frozen: NDArray[np.bool_]) -> "StepGradients":
        """Return the gradients without the candidates of frozen tensors, where nothing grows.

        Args:
            frozen: for each tensor whether it is frozen.
        """
        candidates, entries = self.candidates, self.of_candidates
        if candidates is None or not candidates.counts[frozen].any():
            return self
        arrays, bounds = candidates.arrays, candidates.bounds
        kept = [slice(bounds[tensor], bounds[tensor + 1]) for tensor in np.flatnonzero(~frozen)]
        positions = arrays.concatenate([candidates.positions[:0], *(candidates.positions[part] for part in kept)])
        return attrs.evolve(
            self,
            candidates=candidates.at(positions, np.where(frozen, 0, candidates.counts)),
            of_candidates=(
                None if entries is None else arrays.concatenate([entries[:0], *(entries[part] for part in kept)])
            ),
        )


def entries_at(gradient: Gradient, positions: Topology) -> Array:
    """Return the entries of dense gradients at some positions.

    Args:
        gradient: a function from a tensor's name to its dense gradient.
        positions: the positions, active or not.

    Returns:
        One entry for each position, in their order.
    """
    arrays, layout = positions.arrays, positions.layout
    return arrays.concatenate(
        [
            arrays.take(gradient(name), positions.positions[positions.slots(name)] - offset)
            for name, offset in zip(layout.names, layout.offsets, strict=False)
        ]
    )


@attrs.frozen
class GradientRequests:
    """Which gradients the strategies of a stack ask for. The names are those of strategies, bottom first.

    Attributes:
        dense: those with a hook that takes ``gradient``.
        weight: those with a hook that takes ``weight_gradient`` after the step.
        candidate: those with a hook that takes ``candidate_gradient``.
        inputs: those with a hook that takes ``input_norms``.
        names_candidates: whether a strategy implements ``candidates``.
        observes_dense: whether a strategy's ``observe`` takes ``gradient``.
        observes_weight: whether a strategy's ``observe`` takes ``weight_gradient``.
    """

    dense: tuple[str, ...]
    weight: tuple[str, ...]
    candidate: tuple[str, ...]
    inputs: tuple[str, ...]
    names_candidates: bool
    observes_dense: bool
    observes_weight: bool

    @classmethod
    def of(cls, stack: StrategyStack) -> "GradientRequests":
        """Return what the strategies of a stack ask for.

        Raises:
            InputError: a strategy asks for the gradients of candidates, and none names any.
        """
        requests = cls(
            tuple(stack.plugins_requesting("gradient")),
            tuple(stack.plugins_requesting("weight_gradient", "observe", "prune", "allocate", "grow")),
            tuple(stack.plugins_requesting("candidate_gradient")),
            tuple(stack.plugins_requesting("input_norms")),
            bool(stack.implementers("candidates")),
            bool(stack.plugins_requesting("gradient", "observe")),
            bool(stack.plugins_requesting("weight_gradient", "observe")),
        )
        if requests.candidate and not requests.names_candidates:
            raise InputError(
                f"the strategy {requests.candidate[-1]!r} asks for the gradients of candidates, and no strategy of the "
                "stack names any; that is what the hook 'candidates' is for"
            )
        return requests

    def wants_dense(self, *, update_due: bool) -> bool:
        """Return whether the dense gradients of a step are needed.

        Args:
            update_due: whether an update follows the step.
        """
        return self.observes_dense or (update_due and bool(self.dense))

    def wants_weight(self, *, update_due: bool) -> bool:
        """Return whether the gradients of the active weights of a step are needed.

        Args:
            update_due: whether an update follows the step.
        """
        return self.observes_weight or (update_due and bool(self.weight))

    def complete(self, given: StepGradients, topology: Topology, *, observed: bool = False) -> StepGradients:
        """Return the gradients that are asked for; what is missing is taken from dense ones.

        Args:
            given: the gradients that there are.
            topology: the active weights.
            observed: whether they are those for ``observe`` alone.

        Raises:
            InputError: a strategy asks for gradients that there are not, or there is not one entry a weight.
        """
        dense, of_weights, of_candidates = given.dense, given.of_weights, given.of_candidates
        if dense is None and self.dense and (self.observes_dense or not observed):
            raise InputError(_missing(self.dense[-1], "the dense gradient", "gradient"))
        if of_weights is None and self.weight and (self.observes_weight or not observed):
            if dense is None:
                raise InputError(_missing(self.weight[-1], "the gradient of the active weights", "weight_gradient"))
            of_weights = entries_at(dense, topology)
        if of_candidates is None and self.candidate and given.candidates is not None and not observed:
            if dense is None:
                raise InputError(_missing(self.candidate[-1], "the gradient of candidates", "candidate_gradient"))
            of_candidates = entries_at(dense, given.candidates)
        if given.input_norms is None and self.inputs and not observed:
            raise InputError(
                f"the strategy {self.inputs[-1]!r} asks for the norms of inputs, and this way of training does not "
                "measure them; update() and advance() take them as input_norms=, a function from a tensor's name to "
                "one number for each input of its layer"
            )
        _check_length(of_weights, topology, "the gradient of the active weights has one entry a weight")
        _check_length(of_candidates, given.candidates, "the gradient of candidates has one entry a candidate")
        return attrs.evolve(given, of_weights=of_weights, of_candidates=of_candidates)


def check_units_have_one_input(requests: GradientRequests, unit_map: UnitMap, units: Units) -> None:
    """Check that no unit has weights of several inputs where a strategy asks for the norms of inputs.

    Args:
        requests: what the strategies ask for.
        unit_map: the units of a layout's weights.
        units: the run's units, for the message.

    Raises:
        InputError: one has; the message names the strategy and the tensor.
    """
    if not requests.inputs:
        return
    dense, of_units = unit_map.dense, unit_map.layout
    for name, shape, grid in zip(dense.names, dense.shapes, of_units.shapes, strict=True):
        if shape[:2][-1] != grid[:2][-1]:
            raise InputError(
                f"the strategy {requests.inputs[-1]!r} weighs weights by the norms of their inputs, and a unit of "
                f"{name!r} has weights of several inputs ({units}); it needs units of one input, such as 'weights', "
                "'kernels' or '4x1'"
            )


def _missing(strategy: str, what: str, argument: str) -> str:
    how = (
        "a function from a tensor's name to the gradient in its dense shape"
        if argument == "gradient"
        else "a vector, or take it from the dense gradient, gradient="
    )
    return (
        f"the strategy {strategy!r} asks for {what}, and this way of training does not give it; update() and advance() "
        f"take it as {argument}=, {how}"
    )


def _check_length(entries: Array | None, positions: Topology | None, what: str) -> None:
    if entries is not None and positions is not None and getattr(entries, "shape", None) != (positions.size,):
        raise InputError(f"{what}, {positions.size}; given {describe(entries)}")


def named_candidates(stack: StrategyStack, state: State, random: Randomness) -> Topology:
    """Ask the topmost strategy for the positions whose gradients an update takes (``candidates``).

    Args:
        stack: the strategies.
        state: the state before the update, of units.
        random: the run's random numbers.

    Raises:
        InvariantError: the positions are active, out of range or not ascending; the message names the plugin.
    """
    topology = state.topology
    result = stack.first_result(
        "candidates",
        topology=topology,
        clock=state.clock,
        strategy_state=state.strategy_states,
        random=random.child("candidates", state.clock.updates),
    )
    return _checked(result, topology)


def _checked(result: HookResult, topology: Topology) -> Topology:
    """Return the candidates, if they ascend, are in range and inactive; a device is waited for a single time."""
    positions: Array = result.value
    arrays = topology.arrays
    error = position_vector_error(positions, topology)
    counts = np.zeros(len(topology.layout), np.int64)
    if error is None and len(positions):
        active = is_active(positions, topology)
        both = [order_statistics(positions, topology), counting_of(arrays).count(active)]
        statistics = arrays.to_numpy(arrays.concatenate(both))
        error = position_order_error(positions, topology, statistics)
        counts = counts_per_tensor(statistics[:-1], len(positions))
        if error is None and statistics[-1]:
            first = int(positions[int(arrays.nonzero(active)[0])])
            error = f"{describe_position(first, topology.layout)}, which is active"
    if error:
        raise InvariantError(
            f"plugin {result.plugin!r} broke a promise in 'candidates': it returned {error}", "candidates"
        )
    return topology.at(positions, counts)
