"""Update rules of optimizers as functions from vectors to vectors, with the formulas of the core's rules."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.young_weights import YoungWeights
from sparsecore.learning.optimizers import Adam, AdamW, Optimizer, Sgd
from sparsecore.learning.young_steps import maturity, step_tables, table_size

MOMENTUM = "momentum"
"""The name of SGD's state."""

State: TypeAlias = dict[str, Any]
"""The state of an optimizer by name, each vector with one entry a weight."""

Step: TypeAlias = Callable[[Mapping[str, Any], Any, Any, State, Any], tuple[Any, State]]
"""From the numbers of a step, values, gradient, state, and the bias corrections, to values and state after the step."""


@attrs.frozen
class Rule:
    """How the steps of an optimizer are computed; equal for optimizers that differ in numbers alone.

    Attributes:
        state: the names of the vectors that it keeps.
        step: computes a step.
    """

    state: tuple[str, ...]
    step: Step


def _sgd(numbers: Mapping[str, Any], values: Any, gradient: Any, state: State, _: Any) -> tuple[Any, State]:
    momentum = numbers["momentum"] * state[MOMENTUM] + (gradient + numbers["weight_decay"] * values)
    return values - numbers["learning_rate"] * momentum, {MOMENTUM: momentum}


def _nesterov(numbers: Mapping[str, Any], values: Any, gradient: Any, state: State, _: Any) -> tuple[Any, State]:
    direction = gradient + numbers["weight_decay"] * values
    momentum = numbers["momentum"] * state[MOMENTUM] + direction
    step = direction + numbers["momentum"] * momentum
    return values - numbers["learning_rate"] * step, {MOMENTUM: momentum}


def _adam(numbers: Mapping[str, Any], values: Any, gradient: Any, state: State, own: Any) -> tuple[Any, State]:
    return _by_moments(numbers, values, gradient + numbers["weight_decay"] * values, state, own)


def _adamw(numbers: Mapping[str, Any], values: Any, gradient: Any, state: State, own: Any) -> tuple[Any, State]:
    decayed = values * (1 - numbers["learning_rate"] * numbers["weight_decay"])
    return _by_moments(numbers, decayed, gradient, state, own)


def _by_moments(numbers: Mapping[str, Any], values: Any, gradient: Any, state: State, own: Any) -> tuple[Any, State]:
    first, second = state["first_moment"], state["second_moment"]
    first = first + numbers["first_share"] * (gradient - first)
    second = numbers["second_decay"] * second + numbers["second_share"] * (gradient * gradient)
    rate, root = (numbers["rate"], numbers["root"]) if own is None else own
    step = rate * (first / (jnp.sqrt(second) / root + numbers["epsilon"]))
    return values - step, {"first_moment": first, "second_moment": second}


_MOMENTS = ("first_moment", "second_moment")
_SGD, _NESTEROV, _ADAM, _ADAMW = (
    Rule((MOMENTUM,), _sgd),
    Rule((MOMENTUM,), _nesterov),
    Rule(_MOMENTS, _adam),
    Rule(_MOMENTS, _adamw),
)
_RULES: Mapping[type[Optimizer], Callable[[Any], Rule]] = MappingProxyType(
    {Sgd: lambda rule: _NESTEROV if rule.nesterov else _SGD, Adam: lambda _: _ADAM, AdamW: lambda _: _ADAMW}
)


def rule_of(optimizer: Optimizer) -> Rule:
    """Return how the steps of an optimizer are computed."""
    return _RULES[type(optimizer)](optimizer)


def _sgd_numbers(optimizer: Sgd, _: float, __: int) -> dict[str, float]:
    return {"momentum": optimizer.momentum, "weight_decay": optimizer.weight_decay}


def _adam_numbers(optimizer: Adam | AdamW, learning_rate: float, count: int) -> dict[str, float]:
    first, second = optimizer.betas
    return {
        "weight_decay": optimizer.weight_decay,
        "epsilon": optimizer.epsilon,
        "first_share": 1 - first,
        "second_decay": second,
        "second_share": 1 - second,
        "rate": learning_rate / (1 - first**count),
        "root": math.sqrt(1 - second**count),
    }


_NUMBERS: Mapping[type[Optimizer], Callable[[Any, float, int], dict[str, float]]] = MappingProxyType(
    {Sgd: _sgd_numbers, Adam: _adam_numbers, AdamW: _adam_numbers}
)


def step_numbers(optimizer: Optimizer, learning_rate: float, count: int) -> dict[str, np.float64]:
    """Return the numbers of a step, which are arguments of what is compiled.

    Args:
        optimizer: the update rule.
        learning_rate: η.
        count: the number of the step, from 1.
    """
    named = {"learning_rate": learning_rate, **_NUMBERS[type(optimizer)](optimizer, learning_rate, count)}
    return {name: np.float64(number) for name, number in named.items()}


@attrs.frozen(eq=False)
class YoungCorrections:
    """Adam's bias corrections of weights that have grown recently, by their ages.

    A weight's mark is one more than the number of its steps since it grew, and 0 once it is no longer young.

    Attributes:
        tables: the rates and roots by age; see :class:`sparsecore.learning.young_steps.StepTables`.
        maturity: the age from which on a weight takes the optimizer's own steps.
        own_steps: whether the tables replace the optimizer's corrections, or are further factors.
    """

    tables: tuple[NDArray[np.float64], NDArray[np.float64]]
    maturity: int
    own_steps: bool

    @classmethod
    def of(cls, young: YoungWeights, betas: tuple[float, float]) -> "YoungCorrections":
        """Return the corrections.

        Args:
            young: what young weights get.
            betas: β₁ and β₂ of the optimizer.
        """
        oldest = maturity(young, betas)
        tables = step_tables(young, betas, table_size(oldest))
        return cls((tables.rate, tables.root), oldest, young.own_steps)

    def arguments(self, numbers: Mapping[str, np.float64]) -> tuple[Any, ...]:
        """Return what :func:`corrections` takes in a step, beside the marks.

        Args:
            numbers: of the step.
        """
        factors = (numbers["learning_rate"], np.float64(1)) if self.own_steps else (numbers["rate"], numbers["root"])
        return (*self.tables, *factors, np.int32(self.maturity))


def corrections(marks: Any, numbers: Mapping[str, Any], arguments: tuple[Any, ...]) -> tuple[tuple[Any, Any], Any]:
    """Return each weight's rate and root in a step, and the marks after it; to be compiled.

    Args:
        marks: before the step, int32, (N,).
        numbers: of the step, in the dtype of the values.
        arguments: of :meth:`YoungCorrections.arguments`.

    Returns:
        The two corrections, (N,) each, in the dtype of the values, and the marks.
    """
    rates, roots, rate_factor, root_factor, oldest = arguments
    dtype, is_young = numbers["rate"].dtype, marks > 0
    rate = jnp.where(is_young, (rates[marks] * rate_factor).astype(dtype), numbers["rate"])
    root = jnp.where(is_young, (roots[marks] * root_factor).astype(dtype), numbers["root"])
    return (rate, root), jnp.where(is_young & (marks < oldest), marks + 1, 0)
