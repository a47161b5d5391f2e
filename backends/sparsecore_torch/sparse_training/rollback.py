"""Undoes a sparsify that fails at any point, so that model and optimizer are as they were."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sparsecore_torch._torch_internals.autograd import tensor_hooks
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.optimizers.wrapped import OptimizerLayers, states_of, tensors_in
from sparsecore_torch.sparse_training.storage.compact_group import orders_of, restore_orders


@contextmanager
def undone_on_failure(model: nn.Module, shares: Sequence[OptimizerShare], *, in_place: bool) -> Iterator[None]:
    """Undo all changes of the block if an exception leaves it, an interrupt included.

    Args:
        model: its modules may be given other classes, attributes, parameters and hooks.
        shares: the optimizers, whose param groups, state and hooks may be changed, and the tensors that become sparse.
        in_place: whether entries of these tensors, of their gradients and of their state may be changed. Only then are
            they copied, for the time of the block.
    """
    with ExitStack() as stack:
        for share in shares:
            stack.enter_context(_undone_on_failure(model, share.layers, share.tensors, in_place=in_place))
        yield


@contextmanager
def _undone_on_failure(
    model: nn.Module, layers: OptimizerLayers, tensors: Sequence[NamedParameter], *, in_place: bool
) -> Iterator[None]:
    modules = [_Attributes.of(module) for module in model.modules()]
    optimizers = [_Attributes.of(layer) for layer in (layers.stepping, *layers.wrappers, *layers.parts)]
    lists = [(group["params"], list(group["params"])) for group in layers.stepping.param_groups]
    hooks = [_TensorHooks.of(parameter) for parameter in model.parameters()]
    states = [(state, dict(state)) for one in tensors for state in states_of(layers.stepping, one.parameter)]
    copies = [_Copy.of(tensor) for tensor in _written(tensors, states)] if in_place else []
    gradients = [(one.parameter, one.parameter.grad) for one in tensors]
    orders = orders_of(layers.stepping)
    try:
        yield
    except BaseException:
        for attributes in (*modules, *optimizers):
            attributes.restore()
        for parameters, before in lists:
            parameters[:] = before
        for state, content in states:
            _refill(state, content)
        for parameter, gradient in gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient
        for hooked in hooks:
            hooked.restore()
        for copied in copies:
            copied.restore()
        restore_orders(layers.stepping, orders)
        layers.forget()
        raise


@attrs.frozen(eq=False)
class _Attributes:
    """The class of an object and its attributes, and the content of dicts among these, such as hooks and parameters.

    Attributes:
        owner: the object.
        cls: its class.
        content: its attributes.
        dicts: the content of each dict among them.
    """

    owner: Any
    cls: type
    content: dict[str, Any]
    dicts: tuple[tuple[dict[Any, Any], dict[Any, Any]], ...]

    @classmethod
    def of(cls, owner: Any) -> "_Attributes":
        content = dict(vars(owner))
        dicts = tuple((value, dict(value)) for value in content.values() if isinstance(value, dict))
        return cls(owner, type(owner), content, dicts)

    def restore(self) -> None:
        if type(self.owner) is not self.cls:
            self.owner.__class__ = self.cls
        _refill(vars(self.owner), self.content)
        for value, content in self.dicts:
            _refill(value, content)


@attrs.frozen(eq=False)
class _TensorHooks:
    """The hooks of a parameter, by the attribute that holds them."""

    parameter: Any
    hooks: tuple[tuple[str, dict[int, Any] | None], ...]

    @classmethod
    def of(cls, parameter: Any) -> "_TensorHooks":
        kept = tensor_hooks(parameter).items()
        return cls(parameter, tuple((name, None if hooks is None else dict(hooks)) for name, hooks in kept))

    def restore(self) -> None:
        now = tensor_hooks(self.parameter)
        for name, before in self.hooks:
            hooks = now[name]
            if hooks is not None:
                _refill(hooks, before or {})


@attrs.frozen(eq=False)
class _Copy:
    """A copy of a tensor's entries."""

    tensor: Tensor
    entries: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> "_Copy":
        return cls(tensor, tensor.detach().clone())

    @torch.no_grad()
    def restore(self) -> None:
        self.tensor.copy_(self.entries)


def _written(tensors: Iterable[NamedParameter], states: Iterable[tuple[Any, dict[str, Any]]]) -> Iterator[Tensor]:
    for one in tensors:
        yield one.parameter
        if one.parameter.grad is not None:
            yield one.parameter.grad
    for _, content in states:
        yield from tensors_in(content, set())


def _refill(content: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Restore the content of a dict in place and in its old order; untouched where nothing has changed."""
    now, then = [*content, *content.values()], [*before, *before.values()]
    if len(now) != len(then) or any(one is not other for one, other in zip(now, then, strict=True)):
        content.clear()
        content.update(before)
