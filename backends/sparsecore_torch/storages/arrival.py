"""Gradients of dense parameters on their way to the optimizer: only for weights that exist, or whole where asked."""

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.step_hooks import Given, after_closure
from sparsecore_torch.storages.bits import Bits


@final
class Arrival:
    """Takes away the gradients of inactive positions.

    They go as they arrive, before they are accumulated. In a step whose dense gradient is asked for they stay until
    the optimizer is about to step: only then are gradients whole, unscaled, and reduced over ranks. They are put aside,
    and the optimizer again sees only what belongs to weights that exist.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], bits: Mapping[str, Bits]) -> None:
        self._parameters = parameters
        self._bits = bits
        self._dense = False
        self._aside: dict[str, Tensor] = {}
        self._handles = [
            parameter.register_hook(self._hook(name, bits[name]))  # type: ignore[no-untyped-call]
            for name, parameter in parameters.items()
        ]
        before_step = torch.compiler.disable(self._before_step)  # type: ignore[no-untyped-call]
        self._handles.append(optimizer.register_step_pre_hook(before_step))

    def expect(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to be whole; those of the last one are forgotten."""
        self._dense = dense
        self._aside = {}

    def gradient(self, name: str) -> Tensor:
        """The gradient that was put aside, flat; zeros where none had come."""
        if name in self._aside:
            return self._aside[name].reshape(-1)
        return torch.zeros_like(self._parameters[name]).detach().reshape(-1)

    def end(self) -> None:
        """No hook remains."""
        for handle in self._handles:
            handle.remove()
        self._aside = {}

    def _hook(self, name: str, bits: Bits) -> Callable[[Tensor], Tensor]:
        def arrive(gradient: Tensor) -> Tensor:
            if gradient.layout is not torch.strided:
                raise InputError(
                    f"the gradient of {name} is sparse ({gradient.layout}); make its layer with sparse=False"
                )
            return _finite_at_least(gradient, bits) if self._dense else bits.filled(gradient)

        return arrive

    def _before_step(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        if not self._dense:
            return None
        return after_closure(given, named, lambda: self._put_aside(optimizer))

    @torch.no_grad()
    def _put_aside(self, optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves it to fused optimizers to unscale
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                whole = parameter.grad.detach()
                self._aside[name] = whole.clone() if scale is None else whole / scale
                self._bits[name].fill(whole)


def _finite_at_least(gradient: Tensor, bits: Bits) -> Tensor:
    """The whole gradient, but zero where it is inactive and not finite: no clipping or scaling is to see that."""
    return torch.where(bits.active, gradient, gradient.nan_to_num(0.0, 0.0, 0.0))
