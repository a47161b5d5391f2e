"""Optimizer steps that do nothing, where an update takes their place."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

Given = tuple[tuple[Any, ...], dict[str, Any]]


@final
class HeldStep:
    """Hides all gradients from the optimizer for the steps that are to be left out, and puts them back.

    An optimizer passes over parameters without a gradient, weight decay and momentum included.

    Args:
        optimizer: whose steps.
        is_held: whether the step about to be taken is to be left out.
    """

    def __init__(self, optimizer: Optimizer, is_held: Callable[[], bool]) -> None:
        self._is_held = is_held
        self._hidden: list[tuple[Tensor, Tensor]] = []
        hook = torch.compiler.disable(self._before_step)  # type: ignore[no-untyped-call]
        self._handle = optimizer.register_step_pre_hook(hook)

    def put_back(self) -> None:
        """The step is over: gradients are where they were."""
        for parameter, gradient in self._hidden:
            parameter.grad = gradient
        self._hidden = []

    def end(self) -> None:
        """No hook remains."""
        self._handle.remove()

    def _before_step(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        if not self._is_held():
            return None
        return after_closure(given, named, lambda: self._hide(optimizer))

    def _hide(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._hidden.append((parameter, parameter.grad))
                    parameter.grad = None


def after_closure(given: tuple[Any, ...], named: dict[str, Any], action: Callable[[], None]) -> Given | None:
    """Do something as soon as a step has its gradients: now, or where it has a closure, after that.

    Args:
        given: the optimizer and the positional arguments of ``step``, as a hook before it gets them.
        named: the others.
        action: what to do.

    Returns:
        The arguments with another closure, where there is one.
    """
    closure = named.get("closure", given[1] if len(given) > 1 else None)
    if closure is None:
        action()
        return None

    def evaluate() -> Any:
        loss = closure()
        action()
        return loss

    return given[:1], {**named, "closure": evaluate}
