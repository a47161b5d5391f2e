"""The update rules of :mod:`sparsecore.learning.optimizers`, in place on flat vectors."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from sparsecore.host.weights import Vectors
from sparsecore.learning.optimizers import Adam, AdamW, Optimizer, Sgd


def buffer_names(rule: Optimizer) -> tuple[str, ...]:
    """Names of the vectors that the rule keeps, each with one entry a weight, and zero at the start."""
    return _RULES[type(rule)].buffers


def optimizer_step(vectors: Vectors, rule: Optimizer, learning_rate: float, count: int) -> None:
    """The rule's step number ``count``, from 1; uses up the gradient."""
    _RULES[type(rule)].step(vectors, rule, learning_rate, count)


@attrs.frozen
class _Rule:
    buffers: tuple[str, ...]
    step: Callable[[Vectors, Any, float, int], None]


def _sgd(vectors: Vectors, rule: Sgd, learning_rate: float, _: int) -> None:
    values, momentum, direction = vectors.values, vectors.buffers["momentum"], vectors.gradient
    direction += rule.weight_decay * values
    momentum *= rule.momentum
    momentum += direction
    step = direction + rule.momentum * momentum if rule.nesterov else momentum
    values -= learning_rate * step


def _adam(vectors: Vectors, rule: Adam, learning_rate: float, count: int) -> None:
    vectors.gradient[:] += rule.weight_decay * vectors.values
    _by_moments(vectors, rule, learning_rate, count)


def _adamw(vectors: Vectors, rule: AdamW, learning_rate: float, count: int) -> None:
    vectors.values[:] *= 1 - learning_rate * rule.weight_decay
    _by_moments(vectors, rule, learning_rate, count)


def _by_moments(vectors: Vectors, rule: Adam | AdamW, learning_rate: float, count: int) -> None:
    first, second, gradient = vectors.buffers["first_moment"], vectors.buffers["second_moment"], vectors.gradient
    beta1, beta2 = rule.betas
    first += (1 - beta1) * (gradient - first)
    second *= beta2
    gradient *= gradient
    second += (1 - beta2) * gradient
    # the corrections are numbers of the host, in double precision: vectors in single precision stay so
    divisor = np.sqrt(second, out=gradient)
    divisor /= math.sqrt(1 - beta2**count)
    divisor += rule.epsilon
    vectors.values[:] -= learning_rate / (1 - beta1**count) * (first / divisor)


_RULES: Mapping[type[Optimizer], _Rule] = {
    Sgd: _Rule(("momentum",), _sgd),
    Adam: _Rule(("first_moment", "second_moment"), _adam),
    AdamW: _Rule(("first_moment", "second_moment"), _adamw),
}
