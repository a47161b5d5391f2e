"""The optimizer trains the N values in the place of dense Parameters; its state is gathered, carried and scattered."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.optimizer_state import group_of
from sparsecore_torch.sparsifying.parameters import NamedParameter

_BY_SHAPE = (torch.optim.Adafactor, torch.optim.Muon)


@attrs.frozen(eq=False)
class CompactGroup:
    """The param group of the sparse tensors.

    Attributes:
        optimizer: whose group it is.
        index: of the group.
        places: where in the group each tensor's Parameter was.
    """

    optimizer: Optimizer
    index: int
    places: tuple[int, ...]

    @classmethod
    def of(cls, optimizer: Optimizer, tensors: Sequence[NamedParameter]) -> "CompactGroup":
        """The group that holds all of these; changes nothing.

        Raises:
            InputError: there are several, or the optimizer's state is not one number a weight.
        """
        if isinstance(optimizer, _BY_SHAPE):
            raise InputError(
                f"{type(optimizer).__name__} goes by the shapes of tensors, which compact storage has none of; "
                "take storage='masked', or an optimizer such as SGD, Adam or AdamW"
            )
        groups = {one.name: group_of(optimizer, one.parameter) for one in tensors}
        if len(set(groups.values())) > 1:
            told = "; ".join(f"group {group}: {_names(groups, group)}" for group in sorted(set(groups.values())))
            raise InputError(
                "compact storage trains all sparse tensors as one, so that they must be in one param group of the "
                f"optimizer; they are in {len(set(groups.values()))} ({told})"
            )
        _check_state(optimizer, tensors)
        index = groups[tensors[0].name]
        identities = [id(parameter) for parameter in optimizer.param_groups[index]["params"]]
        return cls(optimizer, index, tuple(identities.index(id(one.parameter)) for one in tensors))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The group's own list."""
        parameters: list[nn.Parameter] = self.optimizer.param_groups[self.index]["params"]
        return parameters

    def take_in(self, values: nn.Parameter, state: Mapping[str, Any]) -> None:
        """Put the values where the first of the tensors was, in the place of them all."""
        parameters = self.parameters
        for place in self.places:
            self.optimizer.state.pop(parameters[place], None)
        rest = [parameter for place, parameter in enumerate(parameters) if place not in self.places]
        rest.insert(min(self.places), values)
        parameters[:] = rest  # the same list, as some optimizers hold on to it
        if state:
            self.optimizer.state[values] = dict(state)

    def take_out(
        self, values: nn.Parameter, dense: Sequence[nn.Parameter], scatter: Callable[[Tensor, int], Tensor]
    ) -> None:
        """Put dense Parameters back where they were, with their part of the state."""
        parameters = self.parameters
        parameters[:] = [parameter for parameter in parameters if parameter is not values]
        for place, index in sorted((place, index) for index, place in enumerate(self.places)):
            parameters.insert(place, dense[index])
        state: Mapping[str, Any] = self.optimizer.state.pop(values, {})
        for index, parameter in enumerate(dense if state else ()):
            self.optimizer.state[parameter] = {
                key: scatter(content, index) if _has_shape(content, values.shape) else copy.deepcopy(content)
                for key, content in state.items()
            }


def gathered_state(
    optimizer: Optimizer, tensors: Sequence[NamedParameter], gather: Callable[[Sequence[Tensor]], Tensor]
) -> dict[str, Any]:
    """The state of the N values, from that of dense Parameters.

    Args:
        optimizer: with state that :meth:`CompactGroup.of` has found fit.
        tensors: whose state it is.
        gather: from dense tensors, one for each of ``tensors``, to N entries.

    Returns:
        State by name; empty where there was none. A Parameter without any, among others that have some, counts as
        zeros.
    """
    parameters = [one.parameter for one in tensors]
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    known, like = next(((state, one) for state, one in zip(states, parameters, strict=True) if state), ({}, None))
    gathered = dict(known)
    for key, content in known.items():
        if like is not None and _has_shape(content, like.shape):
            zeros = (content.new_zeros(()).expand(parameter.shape) for parameter in parameters)
            gathered[key] = gather([state.get(key, zero) for state, zero in zip(states, zeros, strict=True)])
    return gathered


def carry_state(optimizer: Optimizer, values: nn.Parameter, carry: Callable[[Tensor], Tensor]) -> None:
    """Take the state of the values along to where weights are now."""
    state: dict[str, Any] = optimizer.state.get(values, {})
    for key, content in state.items():
        if _has_shape(content, values.shape):
            state[key] = in_place(content, carry(content))


def in_place(tensor: Tensor, entries: Tensor) -> Tensor:
    """The tensor with these entries; another one, if there are more or fewer of them."""
    return tensor.copy_(entries) if tensor.shape == entries.shape else entries


def _check_state(optimizer: Optimizer, tensors: Sequence[NamedParameter]) -> None:
    first: dict[str, tuple[str, Any]] = {}
    for one in tensors:
        for key, content in optimizer.state.get(one.parameter, {}).items():
            if _has_shape(content, one.parameter.shape):
                continue
            if isinstance(content, Tensor) and content.numel() != 1:
                raise InputError(
                    f"the optimizer's state {key!r} of {one.name} has the shape {tuple(content.shape)}; compact "
                    f"storage takes single numbers, and tensors of the Parameter's shape {tuple(one.parameter.shape)}"
                )
            name, other = first.setdefault(key, (one.name, content))
            if other != content:
                raise InputError(
                    f"the optimizer's state {key!r} is {_shown(other)} for {name} and {_shown(content)} for "
                    f"{one.name}; compact storage trains them as one, so that it must be the same"
                )


def _has_shape(content: Any, shape: torch.Size) -> bool:
    return isinstance(content, Tensor) and content.shape == shape


def _shown(content: Any) -> Any:
    return content.item() if isinstance(content, Tensor) else content


def _names(groups: Mapping[str, int], index: int) -> str:
    return ", ".join(name for name, group in groups.items() if group == index)
