"""``torch.optim`` on flat vectors: all state has one entry for each weight, and moves with the weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsecore.engine.young_weights import YoungWeights
from sparsecore.learning.optimizers import Adam, AdamW, Optimizer, Sgd
from sparsecore_torch.sparse_training.optimizers.young_steps import YoungEntries

Parameters = Sequence[torch.nn.Parameter]

SPARSE = "values"
"""The name of the vector of the sparse values."""

MOMENTUM = "momentum_buffer"
"""The name of SGD's state in ``torch.optim``."""


def _sgd(parameters: Parameters, rule: Sgd) -> torch.optim.Optimizer:
    # torch has no Nesterov without momentum, where it makes no difference
    nesterov = rule.nesterov and rule.momentum > 0
    return torch.optim.SGD(
        parameters, lr=0.0, momentum=rule.momentum, nesterov=nesterov, weight_decay=rule.weight_decay
    )


def _adam(parameters: Parameters, rule: Adam) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.0, betas=rule.betas, eps=rule.epsilon, weight_decay=rule.weight_decay)


def _adamw(parameters: Parameters, rule: AdamW) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.0, betas=rule.betas, eps=rule.epsilon, weight_decay=rule.weight_decay)


_RULES: Mapping[type[Optimizer], Callable[[Parameters, Any], torch.optim.Optimizer]] = {
    Sgd: _sgd,
    Adam: _adam,
    AdamW: _adamw,
}


def filled_optimizer(parameters: Parameters, rule: Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer of torch whose state exists from the start: zeros, as before its first step.

    Args:
        parameters: those that it trains.
        rule: the update rule.
    """
    optimizer = _RULES[type(rule)](parameters, rule)
    example = _state_after_a_step(rule)
    for parameter in parameters:
        optimizer.state[parameter] = {
            name: torch.zeros_like(parameter.detach()) if like.shape else torch.zeros_like(like)
            for name, like in example.items()
        }
    return optimizer


class OptimizerState:
    """An optimizer of torch at work on named vectors, and its state.

    The state exists from the start: zeros, as ``torch.optim`` itself has them before the first step. Its names, and
    which part of it has one entry for each weight, are found out by a step on a scratch vector.

    Args:
        vectors: the parameters by name, each (size,).
        rule: the update rule.
        young: which steps weights of the vector 'values' take that have grown recently; None for the optimizer's own.
    """

    def __init__(
        self, vectors: Mapping[str, torch.nn.Parameter], rule: Optimizer, young: YoungWeights | None = None
    ) -> None:
        self._vectors = dict(vectors)
        self._optimizer = filled_optimizer(list(vectors.values()), rule)
        self._choice = young
        self._young: YoungEntries | None = None
        if young is not None:
            self.set_marks(torch.zeros(len(vectors[SPARSE]), dtype=torch.int64, device=vectors[SPARSE].device))

    @property
    def marks(self) -> Tensor | None:
        """The ages of young weights (:meth:`YoungEntries.of_vector`), (N,), int64; None where they are not needed."""
        return None if self._young is None else self._young.marks(len(self._vectors[SPARSE]))

    def set_marks(self, marks: Tensor) -> None:
        """Take up the ages of young weights.

        Args:
            marks: of all weights of the vector 'values', (N,), int64.
        """
        if self._choice is not None:
            self._young = YoungEntries.of_vector(self._optimizer, self._vectors[SPARSE], self._choice, marks)

    def zero_grad(self) -> None:
        """Drop the gradients of the last step."""
        self._optimizer.zero_grad(set_to_none=True)

    def step(self, learning_rate: float) -> None:
        """Take one step by the gradients; a vector without one stays as it is.

        Args:
            learning_rate: η of this step.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self._young is not None:
            self._young.before_step()
        self._optimizer.step()
        if self._young is not None:
            self._young.correct()

    def vectors_of(self, name: str) -> dict[str, Tensor]:
        """Return the state of a vector that has one entry for each weight.

        Args:
            name: of the vector, as the constructor was given it.

        Returns:
            By name, not copied; empty for SGD without momentum.
        """
        return {key: buffer for key, buffer in self._optimizer.state[self._vectors[name]].items() if buffer.shape}

    def replace(self, name: str, parameter: torch.nn.Parameter) -> None:
        """Replace a trained vector by another one. Its state is zero, but its count of steps continues.

        Args:
            name: of the vector that is replaced.
            parameter: the other one, of any size.
        """
        before = self._vectors[name]
        state = self._optimizer.state.pop(before)
        zeros = {key: torch.zeros_like(parameter.detach()) if old.shape else old for key, old in state.items()}
        self._optimizer.state[parameter] = zeros
        held = self._optimizer.param_groups[0]["params"]
        held[next(index for index, one in enumerate(held) if one is before)] = parameter
        self._vectors[name] = parameter

    def buffers(self) -> dict[str, Tensor]:
        """Return all state, such as momentum and the count of steps.

        Returns:
            By 'vector.name', not copied.
        """
        return {
            f"{vector}.{name}": buffer
            for vector, parameter in self._vectors.items()
            for name, buffer in self._optimizer.state[parameter].items()
        }


def _state_after_a_step(rule: Optimizer) -> dict[str, Tensor]:
    """Return the state that a rule keeps for a vector of one entry: vectors, and numbers such as the count of steps."""
    vector = torch.nn.Parameter(torch.zeros(1))
    vector.grad = torch.zeros(1)
    optimizer = _RULES[type(rule)]([vector], rule)
    optimizer.step()
    return {name: buffer for name, buffer in optimizer.state[vector].items() if buffer is not None}
