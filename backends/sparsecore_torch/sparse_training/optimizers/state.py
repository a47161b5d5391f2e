"""The state that an optimizer keeps for the sparse tensors, and whether sparse training supports the optimizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.copies import ProbeError
from sparsecore_torch.sparse_training.optimizers.probe import probe, stand_in
from sparsecore_torch.sparse_training.optimizers.profile import (
    OptimizerProfile,
    StateEntry,
    first_of,
    flat,
    labelled_states,
)
from sparsecore_torch.sparse_training.optimizers.wrapped import others_of

_UNSUPPORTED = (torch.optim.LBFGS, torch.optim.SparseAdam)
"""One updates all parameters as one vector, the other takes sparse gradients only."""

Fresh = float | Callable[[Mapping[str, Any]], float]
"""The entry of a new weight: a number, or a function from the options of the param group to one."""


@attrs.frozen
class _Description:
    """The arguments of :func:`describe_optimizer`."""

    state: Mapping[str, Fresh]
    copies_of_weights: frozenset[str]
    is_entrywise: bool

    def profile(self, group: Mapping[str, Any]) -> OptimizerProfile:
        numbers = {key: float(fresh(group) if callable(fresh) else fresh) for key, fresh in self.state.items()}
        entries = {key: StateEntry(is_entrywise=self.is_entrywise, fresh=fresh) for key, fresh in numbers.items()}
        copies = {
            key: StateEntry(is_entrywise=self.is_entrywise, fresh=0.0, follows_weight=True)
            for key in self.copies_of_weights
        }
        return OptimizerProfile(
            is_entrywise=self.is_entrywise,
            keeps_zero=False,
            entries=MappingProxyType(entries | copies),
            others=None,
            steps=(),
        )


_DESCRIBED: dict[type[Any], _Description] = {}
_TORCH_PROFILES: dict[Any, OptimizerProfile] = {}
"""Profiles of torch's own optimizers, by class, options, shape, dtype and device."""


def describe_optimizer(
    optimizer: type[Any],
    *,
    state: Mapping[str, Fresh],
    copies_of_weights: Sequence[str] = (),
    entry_by_entry: bool = False,
) -> None:
    """Describe what an optimizer of your own keeps for each weight, where ``sparsify`` cannot find it out.

    Args:
        optimizer: its class; holds for classes derived from it, too.
        state: the keys of the state that has one entry for each weight, with the entry of a new weight: a number, or a
            function from the param group's options to one (``lambda group: group["lr"]``). What is in a dict there has
            the key ``"key[inner key]"``, and everything in a list ``"key[0]"``.
        copies_of_weights: the keys of state that has one entry for each weight and begins as the weight itself.
        entry_by_entry: whether each weight is changed by its own value, gradient and state alone. Compact storage takes
            no other optimizers.

    All other state belongs to a parameter as a whole, and is never changed.
    """
    known = dict(state)
    _DESCRIBED[optimizer] = _Description(known, frozenset(copies_of_weights), entry_by_entry)


def check_optimizer(optimizer: Optimizer, tensors: Sequence[NamedParameter]) -> None:
    """Check that an optimizer holds the sparse tensors, and takes steps with dense gradients.

    Args:
        optimizer: the one that takes the step.
        tensors: the sparse tensors.

    Raises:
        InputError: it does not.
    """
    if isinstance(optimizer, _UNSUPPORTED):
        raise InputError(
            f"{type(optimizer).__name__} cannot train sparse tensors: its state and steps are not entry by entry; "
            "SGD, Adam, AdamW, RMSprop and their like can"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [one.name for one in tensors if id(one.parameter) not in held]
    if missing:
        raise InputError(
            f"the optimizer does not hold {', '.join(missing)}; make it of the model's parameters, or leave these "
            "dense with exclude="
        )


@final
class OptimizerStates:
    """The state with one entry for each weight that an optimizer, its wrappers and its parts keep for sparse tensors.

    Args:
        optimizer: the one that takes the step.
        parameters: the sparse tensors by name.

    Raises:
        InputError: it cannot be found out what state the optimizer keeps; nothing has changed.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> None:
        self._optimizer = optimizer
        self._profiles: dict[str, OptimizerProfile] = {}
        self._refresh(parameters)
        for name, parameter in parameters.items():
            tuple(self.entries(name, parameter))  # raises an error for present state that cannot be understood

    def profile(self, name: str) -> OptimizerProfile:
        """Return what the optimizer does to the tensor of this name."""
        return self._profiles[name]

    def entries(self, name: str, parameter: Tensor) -> Iterator[tuple[Tensor, StateEntry]]:
        """Iterate over the state of a tensor that has one entry for each weight.

        Args:
            name: of the tensor.
            parameter: the tensor.

        Yields:
            A tensor of the parameter's shape, and how it belongs to the weights.

        Raises:
            InputError: there is state of the parameter's shape that cannot be understood.
        """
        for label, state in labelled_states(self._layers, parameter):
            for key, content in flat(state).items():
                if isinstance(content, Tensor) and content.shape == parameter.shape:
                    entry = self._entry(f"{label}{key}", name, parameter)
                    if entry is not None and entry.fresh is not None:
                        yield content, entry

    def renew(self, parameters: Mapping[str, Tensor]) -> None:
        """Find out again the entries of new weights where these are not zero: they may be the learning rate.

        Args:
            parameters: the sparse tensors by name.
        """
        varying = {
            name: parameter
            for name, parameter in parameters.items()
            if any(entry.fresh for entry in self._profiles[name].entries.values())
        }
        self._refresh(varying)

    @property
    def _layers(self) -> tuple[Any, ...]:
        return (self._optimizer, *others_of(self._optimizer))

    def _refresh(self, parameters: Mapping[str, Tensor]) -> None:
        found: dict[Any, OptimizerProfile] = {}
        for name, parameter in parameters.items():
            group = group_of(self._optimizer, parameter)
            kind = (group, stand_in(tuple(parameter.shape)), parameter.dtype, parameter.device)
            if kind not in found:
                found[kind] = profile_of(self._optimizer, group, name, parameter)
            self._profiles[name] = found[kind]

    def _entry(self, key: str, name: str, parameter: Tensor) -> StateEntry | None:
        """How the state of this key belongs to the weights; None where it belongs to the parameter as a whole."""
        profile = self._profiles[name]
        if key not in profile.entries and profile.knows(first_of(key)):
            key = first_of(key)
        if not profile.knows(key):
            profile = self._profiles[name] = self._with(key, name, parameter)
        return profile.entries.get(key)

    def _with(self, key: str, name: str, parameter: Tensor) -> OptimizerProfile:
        """Return the profile with a key that has appeared later: with other options, or in the state of a wrapper."""
        group = group_of(self._optimizer, parameter)
        for layer in (self._optimizer, *others_of(self._optimizer)):
            try:
                found = probe(layer, group, parameter)
            except ProbeError:
                continue
            if key in found.entries or key in (found.others or ()):
                known = self._profiles[name]
                return attrs.evolve(
                    known,
                    keeps_zero=False,
                    entries=MappingProxyType({**found.entries, **known.entries, key: found.entries[key]})
                    if key in found.entries
                    else known.entries,
                    others=(known.others or frozenset()) | (found.others or frozenset()),
                )
        raise InputError(
            f"the state {key!r} that {type(self._optimizer).__name__} keeps for {name} has the shape of the parameter, "
            "but does not appear where a copy of the optimizer is tried, so that it cannot be known whether it has "
            f"one entry for each weight; {_REMEDY}"
        )


_REMEDY = "say what it is with sparsecore_torch.describe_optimizer"


def profile_of(
    optimizer: Optimizer, group: int, name: str, parameter: Tensor, *, flat_shape: bool = False
) -> OptimizerProfile:
    """Return what an optimizer does to a parameter, as it has been described or else as a probe finds it.

    Args:
        optimizer: the one that takes the step.
        group: the number of the param group.
        name: of the parameter, for the error sentence.
        parameter: the parameter.
        flat_shape: whether to probe a vector of as many entries instead.

    Raises:
        InputError: it is not described, and cannot be probed.
    """
    options = optimizer.param_groups[group]
    described = next((_DESCRIBED[cls] for cls in type(optimizer).__mro__ if cls in _DESCRIBED), None)
    if described is not None:
        return described.profile(options)
    known = _key(optimizer, options, parameter, flat_shape)
    if known in _TORCH_PROFILES:
        return _TORCH_PROFILES[known]
    try:
        found = probe(optimizer, group, parameter, flat=flat_shape)
    except ProbeError as error:
        raise InputError(
            f"it cannot be found out what {type(optimizer).__name__} keeps for the weights of {name} by trying a copy "
            f"of it on a tensor like this one: {error}; {_REMEDY}, or leave the tensor dense with exclude="
        ) from error
    if known is not None:
        _TORCH_PROFILES[known] = found
    return found


def _key(optimizer: Optimizer, options: Mapping[str, Any], parameter: Tensor, flat_shape: bool) -> Any:
    cls = type(optimizer)
    if not cls.__module__.startswith("torch.optim."):
        return None
    described = tuple(sorted((key, repr(option)) for key, option in options.items() if key != "params"))
    return cls, described, stand_in(tuple(parameter.shape)), parameter.dtype, parameter.device, flat_shape


def group_of(optimizer: Optimizer, parameter: Tensor) -> int:
    """Return the index of the param group that a parameter is in.

    Args:
        optimizer: that holds the parameter.
        parameter: the parameter.
    """
    return next(
        index
        for index, group in enumerate(optimizer.param_groups)
        if any(held is parameter for held in group["params"])
    )


def learning_rate_of(group: Mapping[str, Any]) -> float | None:
    """Return the learning rate of a param group.

    Args:
        group: of an optimizer; the rate may be a tensor, which the host then waits for.

    Returns:
        None where there is none, as in optimizers that choose their own.
    """
    rate = group.get("lr")
    return None if rate is None else float(rate)
