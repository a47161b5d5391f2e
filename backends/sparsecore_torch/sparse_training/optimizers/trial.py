"""Trial steps of an optimizer's copies on scratch parameters, and a record of what came of each step."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore_torch.sparse_training.optimizers.copies import (
    HiddenStateError,
    MakeCopy,
    copied,
    is_plain,
    layers_within,
    prepare,
    rebuilt,
    seeded,
    step,
    values_of,
)
from sparsecore_torch.sparse_training.optimizers.profile import flat, labelled_states
from sparsecore_torch.sparse_training.optimizers.wrapped import tensors_outside_of_state

_SCALES = (1.0, 1.0, 30.0, 0.1, 1.0, 1e-3, 1.0, 100.0, 1.0)
"""The scales of the gradients of each step: some optimizers treat large or small ones differently."""


@attrs.frozen(eq=False)
class TrialData:
    """Weights and gradients of a trial.

    Entries are of four kinds, at random positions: observed ones; ones that differ in the disturbed run; ones with
    neither weight nor gradient ("empty"); and ones with a weight, but no gradient ("still"). The first gradient is
    orthogonal to each row of the weights, but not in the disturbed run: some optimizers project such gradients.

    Attributes:
        shape: that defines rows of entries.
        actual: the shape of the scratch parameter, with as many entries.
        dtype: of the parameter.
        device: of the parameter.
    """

    shape: tuple[int, ...]
    actual: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @cached_property
    def kinds(self) -> Tensor:
        """The kind of each entry: 0 observed, 1 disturbed, 2 empty, 3 still; flat."""
        count = math.prod(self.shape)
        kinds = torch.arange(count) * 4 // count
        return kinds[torch.randperm(count, generator=_generator(1))].to(self.device)

    @cached_property
    def start(self) -> tuple[Tensor, Tensor]:
        """The weights at the start, flat, in the base run and in the disturbed run."""
        return self._pair(2, self.kinds.cpu() == 2)

    @cached_property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The gradients of all steps, flat, in the base run and in the disturbed run."""
        none = self.kinds.cpu() >= 2
        base, disturbed = zip(*(self._pair(3 + number, none) for number in range(len(_SCALES))), strict=True)
        turned = (self._orthogonal(base[0]), *base[1:])
        factors = [0.1 * scale for scale in _SCALES]
        return [(one * factor, other * factor) for one, other, factor in zip(turned, disturbed, factors, strict=True)]

    def _pair(self, seed: int, none: Tensor) -> tuple[Tensor, Tensor]:
        base = self._numbers(seed)
        disturbed = torch.where(self.kinds.cpu() == 1, 5 * self._numbers(seed + 100), base)
        first, second = ((0.5 * one.masked_fill(none, 0.0)).to(self.device, self.dtype) for one in (base, disturbed))
        return first, second

    def _numbers(self, seed: int) -> Tensor:
        """Numbers with random signs that are not close to zero."""
        normal = torch.randn(math.prod(self.shape), generator=_generator(seed))
        return normal + 0.1 * normal.sign()

    def _orthogonal(self, gradient: Tensor) -> Tensor:
        rows = self.shape[0] if len(self.shape) > 1 else 1
        weights, slopes = (one.double().reshape(rows, -1) for one in (self.start[0], gradient))
        free = torch.where(self.kinds.reshape(rows, -1) == 1, weights, 0.0)
        products, squares = (weights * slopes).sum(1, keepdim=True), free.square().sum(1, keepdim=True)
        # not quite orthogonal, so that there is something to project
        wanted = 1e-2 * weights.norm(dim=1, keepdim=True) * slopes.norm(dim=1, keepdim=True) / weights.shape[1] ** 0.5
        turned = slopes - free * (products - wanted) / squares.clamp_min(torch.finfo(torch.float64).tiny)
        return gradient.new_tensor(turned.reshape(-1))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


Drive = Callable[[Optimizer, nn.Parameter, Tensor], None]
"""Takes one step of a copy with a gradient."""


def _plainly(optimizer: Optimizer, parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient.clone()
    step(optimizer)


def _by_closure(optimizer: Optimizer, parameter: nn.Parameter, gradient: Tensor) -> None:
    def closure() -> Tensor:  # its gradient differs if the optimizer has moved the weights meanwhile
        parameter.grad = gradient + gradient.abs() * parameter.detach()
        return gradient.new_ones(())

    closure()
    step(optimizer, closure)


def _with_graph(optimizer: Optimizer, parameter: nn.Parameter, gradient: Tensor) -> None:
    """For optimizers that differentiate the gradient once more; its derivative is diagonal."""
    loss = (parameter * gradient + gradient.abs() * parameter.square() / 2).sum()
    (parameter.grad,) = torch.autograd.grad(loss, [parameter], create_graph=True)
    try:
        step(optimizer)
    finally:
        parameter.grad = None


DRIVES: tuple[Drive, ...] = (_plainly, _by_closure, _with_graph)
MAKES: tuple[MakeCopy, ...] = (copied, rebuilt, seeded)

State = Mapping[str, Any]
"""The content of a parameter's state, by path and key."""


@attrs.frozen(eq=False)
class Run:
    """The record of a run.

    Attributes:
        first: the first value of each key of the state.
        coded: the keys whose tensors are no plain ones.
        outside: the tensors of the parameter's shape at the end that are not in its state.
        weights: after each step, flat.
        states: after each step.
        options: those of the param group after each step.
    """

    first: dict[str, Any] = attrs.field(factory=dict)
    coded: set[str] = attrs.field(factory=set)
    outside: dict[str, Tensor] = attrs.field(factory=dict)
    weights: list[Tensor] = attrs.field(factory=list)
    states: list[State] = attrs.field(factory=list)
    options: list[State] = attrs.field(factory=list)


@attrs.frozen(eq=False)
class Runner:
    """Takes all steps of a trial with a new copy of an optimizer.

    Attributes:
        make: makes a copy that holds a scratch parameter.
        drive: takes one step of it.
        rate: replaces the optimizer's own learning rate.
    """

    make: Callable[[nn.Parameter], Optimizer]
    drive: Drive
    rate: float | None = None

    def run(self, data: TrialData, *, disturbed: bool = False, after: Callable[[State], None] | None = None) -> Run:
        """Take all steps and record them.

        Args:
            data: weights and gradients.
            disturbed: whether to use those of the disturbed run.
            after: called with the state after each step is recorded; it may change the state in place.
        """
        torch.manual_seed(0)  # all runs draw the same numbers; undisturbed() restores the generator
        which = int(disturbed)
        parameter = nn.Parameter(data.start[which].clone().reshape(data.actual))
        optimizer = self.make(parameter)
        prepare(optimizer)
        if self.rate is not None:
            own = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = torch.full_like(own, self.rate) if isinstance(own, Tensor) else self.rate
        run = Run()
        for gradients in data.gradients:
            self.drive(optimizer, parameter, gradients[which].reshape(data.actual))
            _check_keys(optimizer, parameter)
            states = dict(labelled_states(layers_within(optimizer), parameter))
            state = {f"{label}{key}": content for label, one in states.items() for key, content in flat(one).items()}
            run.weights.append(parameter.detach().clone().reshape(-1))
            run.states.append({key: _snapshot(content) for key, content in state.items()})
            run.options.append({k: _snapshot(one) for k, one in optimizer.param_groups[0].items() if k != "params"})
            for label, one in states.items():
                first = {f"{label}{key}": content for key, content in getattr(one, "first", {}).items()}
                run.first.update({key: content for key, content in first.items() if key not in run.first})
            run.first.update({key: content for key, content in run.states[-1].items() if key not in run.first})
            run.coded.update(key for key, one in state.items() if isinstance(one, Tensor) and not is_plain(one))
            if after is not None:
                after(state)
        for layer in layers_within(optimizer):
            for name, tensor in tensors_outside_of_state(layer, parameter):
                if has_shape(tensor, data.actual) and tensor is not parameter:
                    run.outside[name] = tensor.detach().clone()
        return run


def _check_keys(optimizer: Any, parameter: Tensor) -> None:
    """Check that no state is kept by the identity of a parameter: torch mixes up such keys and parameters."""
    if any(key == id(parameter) for layer in layers_within(optimizer) for key in layer.state if isinstance(key, int)):
        raise HiddenStateError("it keeps state by id(parameter), and not by the parameter")


def has_shape(content: Any, shape: tuple[int, ...]) -> bool:
    """Return whether something in an optimizer's state is a tensor of this shape."""
    return isinstance(content, Tensor) and tuple(content.shape) == shape


def _snapshot(content: Any) -> Any:
    """Return a copy of state that later steps do not change."""
    if isinstance(content, Tensor):
        return values_of(content).clone()
    if isinstance(content, Mapping):
        return {key: _snapshot(one) for key, one in content.items()}
    if isinstance(content, list | tuple):
        return [_snapshot(one) for one in content]
    return content
