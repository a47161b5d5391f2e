"""The optimizers of a training, and the sparse tensors that each of them trains."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.errors import InputError, listed
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.state import check_optimizer, group_of, learning_rate_of
from sparsecore_torch.sparse_training.optimizers.wrapped import OptimizerLayers, layers_of

_SHOWN = 8
"""The number of tensors that an error sentence names."""


@attrs.frozen(eq=False)
class OptimizerShare:
    """An optimizer, and the sparse tensors that it trains.

    Attributes:
        layers: the optimizer with its wrappers.
        tensors: in the order of the layout; none for an optimizer that trains dense parameters alone.
    """

    layers: OptimizerLayers
    tensors: tuple[NamedParameter, ...]

    @property
    def stepping(self) -> Optimizer:
        """The optimizer whose steps change the weights."""
        return self.layers.stepping


def all_layers_of(given: Any) -> tuple[OptimizerLayers, ...]:
    """Return the optimizers that a user has given: one, or several in a list or tuple.

    Args:
        given: of ``sparsify``; each may be wrapped.

    Raises:
        InputError: there is none, one is given twice, or one is no optimizer whose steps can be followed.
    """
    optimizers = list(given) if isinstance(given, list | tuple) else [given]
    if not optimizers:
        raise InputError("sparsify takes an optimizer or a list of them; given an empty one")
    found = tuple(map(layers_of, optimizers))
    for index, one in enumerate(found):
        if any(one.stepping is other.stepping for other in found[:index]):
            raise InputError(f"the optimizer {type(one.stepping).__name__} is given twice")
    return found


def shares_of(optimizers: Sequence[OptimizerLayers], tensors: Sequence[NamedParameter]) -> tuple[OptimizerShare, ...]:
    """Return which optimizer trains which of the sparse tensors.

    Args:
        optimizers: all of the training.
        tensors: the sparse tensors.

    Raises:
        InputError: no optimizer holds a tensor, or two of them do, or the one that does takes no dense gradients.
    """
    if len(optimizers) == 1:
        check_optimizer(optimizers[0].stepping, tensors)
        return (OptimizerShare(optimizers[0], tuple(tensors)),)
    held = [_held_by(one.stepping) for one in optimizers]
    holders = {one.name: [i for i, own in enumerate(held) if id(one.parameter) in own] for one in tensors}
    names = ", ".join(type(one.stepping).__name__ for one in optimizers)
    missing = [name for name, own in holders.items() if not own]
    if missing:
        raise InputError(
            f"none of the optimizers ({names}) holds {listed(missing, _SHOWN)}; give sparsify all optimizers, made of "
            "the model's parameters, or leave these dense with exclude="
        )
    twice = [name for name, own in holders.items() if len(own) > 1]
    if twice:
        raise InputError(f"several of the optimizers ({names}) hold {listed(twice, _SHOWN)}, and both would train it")
    shares = tuple(
        OptimizerShare(layers, tuple(one for one in tensors if holders[one.name] == [index]))
        for index, layers in enumerate(optimizers)
    )
    for share in shares:
        if share.tensors:
            check_optimizer(share.stepping, share.tensors)
    return shares


def learning_rates_of(
    shares: Sequence[OptimizerShare], tensors: Sequence[NamedParameter]
) -> tuple[Callable[[], float | None], ...]:
    """Return functions that return the learning rates of tensors, for as long as their param groups exist.

    Args:
        shares: the optimizers.
        tensors: those whose learning rates strategies get.
    """
    holders = {one.name: share.stepping for share in shares for one in share.tensors}
    return tuple(
        partial(_learning_rate_at, holders[one.name], group_of(holders[one.name], one.parameter)) for one in tensors
    )


def _learning_rate_at(optimizer: Optimizer, group: int) -> float | None:
    return learning_rate_of(optimizer.param_groups[group])


def _held_by(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def holds_any(optimizer: Optimizer, parameters: Sequence[Tensor]) -> bool:
    """Return whether an optimizer holds one of these parameters."""
    held = _held_by(optimizer)
    return any(id(one) in held for one in parameters)
