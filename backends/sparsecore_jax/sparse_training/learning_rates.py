"""The learning rate of a step, for strategies that compute with it: optax keeps it inside functions."""

from collections.abc import Callable
from typing import Any

import attrs
import jax
import numpy as np

from sparsecore.errors import InputError
from sparsecore_jax.sparse_training.transformation import SparseState


@attrs.frozen(eq=False)
class LearningRate:
    """The learning rate that strategies get.

    Attributes:
        given: a number, or a schedule of optax, a function of the finished steps; None to look for that of
            ``optax.inject_hyperparams`` in the optimizer's state.
    """

    given: float | Callable[[int], Any] | None

    def of_groups(self, state: SparseState, step: int, count: int) -> list[float | None]:
        """Return the learning rate of a step for each group of tensors.

        Args:
            state: of the optimizer, after the step.
            step: the number of steps finished before it.
            count: the number of groups.
        """
        return [self.at(state.inner_state, step)] * count

    def at(self, inner_state: Any, step: int) -> float | None:
        """Return the learning rate of a step; None where it is not known.

        Args:
            inner_state: of the user's optimizer.
            step: the number of steps finished before it.
        """
        if callable(self.given):
            return float(self.given(step))
        return _injected(inner_state) if self.given is None else float(self.given)


def as_learning_rate(given: Any) -> LearningRate:
    """Return the learning rate that was given.

    Raises:
        InputError: it is neither a finite number nor a function.
    """
    if given is not None and not callable(given):
        try:
            is_finite = bool(np.isfinite(float(given)))
        except (TypeError, ValueError):
            is_finite = False
        if not is_finite:
            raise InputError(f"learning_rate is a finite number or a schedule of optax; given {given!r}")
    return LearningRate(given)


def _injected(inner_state: Any) -> float | None:
    """Return the learning rate in a state of inject_hyperparams, of which there may be several."""
    nodes = jax.tree.leaves(inner_state, is_leaf=_has_hyperparameters)
    rates = [one.hyperparams.get("learning_rate") for one in nodes if _has_hyperparameters(one)]
    return next((float(np.asarray(jax.tree.leaves(rate)[0])) for rate in rates if rate is not None), None)


def _has_hyperparameters(node: Any) -> bool:
    return hasattr(node, "hyperparams")
