"""What strategies change around an optimizer's step: the gradient before it, and the values after it."""

from sparsecore.engine import validation
from sparsecore.engine.arrays import Array, waits_for_device
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.stack import StrategyStack
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError


def perturbed_gradient(
    stack: StrategyStack, state: State, values: Array, weight_gradient: Array, random: Randomness
) -> Array:
    """Return the gradient that the optimizer is to step by.

    Args:
        stack: the strategies.
        state: the state before the step.
        values: the N values before it.
        weight_gradient: their gradient, (N,). One that is not finite is returned as it is: the optimizer's step
            diverges, or a GradScaler skips it.
        random: the run's random numbers.

    Returns:
        (N,); the given array itself where no strategy changes it.

    Raises:
        InputError: there is not one value or not one gradient a weight.
        InvariantError: a strategy returned other than N finite numbers of the same dtype.
    """
    topology = state.topology
    validation.check_given_values(values, topology)
    validation.check_given_values(weight_gradient, topology)
    if not topology.arrays.all_finite(weight_gradient):
        return weight_gradient
    readonly = topology.arrays.readonly(weight_gradient)
    result = stack.first_result(
        "perturb_gradient",
        topology=topology,
        values=topology.arrays.readonly(values),
        weight_gradient=readonly,
        clock=state.clock,
        strategy_state=state.strategy_states,
        random=random.child("perturb gradient", state.clock.step),
    )
    if result.value is readonly:
        return weight_gradient
    return validation.check_values(result, "perturb_gradient", topology, weight_gradient)


def perturbed_values(
    stack: StrategyStack,
    state: State,
    values: Array,
    learning_rate: float | None,
    random: Randomness,
    *,
    update_follows: bool,
) -> Array:
    """Return the values after a step as the strategies change them, as DeepR's noise does.

    Args:
        stack: the strategies.
        state: the state before the step.
        values: the N values after it.
        learning_rate: of the step; None where the optimizer chooses its own.
        random: the run's random numbers.
        update_follows: whether an update is made by these values. After other steps it is not looked up whether they
            are finite if the host would wait for a device; a value that is not stays so until the next update.

    Returns:
        (N,); the given array itself where no strategy changes them.

    Raises:
        InputError: a strategy needs the learning rate, and there is none.
        InvariantError: a strategy returned other than N finite numbers of the same dtype.
        DivergedError: a value is not finite.
    """
    readonly = state.topology.arrays.readonly(values)
    try:
        result = stack.first_result(
            "perturb",
            topology=state.topology,
            values=readonly,
            learning_rate=learning_rate,
            clock=state.clock,
            strategy_state=state.strategy_states,
            random=random.child("perturb", state.clock.step),
        )
    except TypeError as error:
        requesting = stack.plugins_requesting("learning_rate", "perturb")
        if learning_rate is None and requesting:
            raise InputError(
                f"the strategy {requesting[-1]!r} needs the learning rate, and the optimizer has none of its own "
                "(its 'lr' is None, or missing); give the optimizer one, or the strategy a step size"
            ) from error
        raise
    if result.value is readonly:
        return values
    if waits_for_device(state.topology.arrays) and not update_follows:
        return validation.check_vector(result, "perturb", state.topology, values)
    check_finite_before_update(stack, values, state.topology)
    return validation.check_values(result, "perturb", state.topology, values)


def check_finite_before_update(stack: StrategyStack, values: Array, topology: Topology) -> None:
    """Check that the values that an update is made by are finite.

    Args:
        stack: the strategies, whose perturbations since the last update may not have been looked at.
        values: (N,).
        topology: the positions that they belong to.

    Raises:
        DivergedError: a value is not finite; the message names its tensor, and who else may have returned it.
    """
    perturbing = stack.implementers("perturb") if waits_for_device(topology.arrays) else ()
    named = " or ".join(map(repr, perturbing))
    cause = f", or 'perturb' of {named} has returned it since the last update" if named else ""
    validation.check_finite_values(values, topology, cause)
