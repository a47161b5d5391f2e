"""Copies of an optimizer that hold one scratch parameter, so that trial steps change nothing real."""

import copy
import random
import traceback
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter as Argument
from inspect import signature
from itertools import dropwhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore_torch._torch_internals.optimizers import is_hooks_attribute, step_without_hooks
from sparsecore_torch.sparse_training.optimizers.wrapped import layers_of, looks_like_optimizer
from sparsecore_torch.tensors import is_sharded

MakeCopy = Callable[[Optimizer, int, nn.Parameter], Optimizer]
"""Makes a copy from an optimizer, the index of a param group, and the scratch parameter that it is to hold."""


def copied(optimizer: Optimizer, group: int, parameter: nn.Parameter) -> Optimizer:
    """Copy an optimizer with its options and attributes, without its state and hooks.

    Attributes that refer to real parameters refer to the scratch parameter, or to an empty one, in the copy.

    Args:
        optimizer: the optimizer.
        group: the index of the param group whose options count.
        parameter: the scratch parameter.
    """
    given = optimizer.param_groups
    groups = [_options(given[group]) | {"params": [parameter]}]
    memo: dict[int, Any] = {
        id(held): nn.Parameter(held.detach().new_empty(0)) for each in given for held in each["params"]
    }
    memo |= {id(given): groups, id(given[group]): groups[0]}
    return _copy_of(optimizer, memo, groups)


def rebuilt(optimizer: Optimizer, group: int, parameter: nn.Parameter) -> Optimizer:
    """Construct an optimizer of the same class and options, for classes whose constructor makes the state.

    Args:
        optimizer: the optimizer.
        group: the index of the param group whose options count.
        parameter: the scratch parameter.
    """
    make: Any = type(optimizer)
    options = _options(optimizer.param_groups[group])
    known = signature(make).parameters.values()
    takes_all = any(argument.kind is Argument.VAR_KEYWORD for argument in known)
    named = {argument.name for argument in known}
    accepted = {
        key: options.get(key, default) for key, default in optimizer.defaults.items() if takes_all or key in named
    }
    with foreign_code():
        anew: Optimizer = make([options | {"params": [parameter]}], **accepted)
    for one in layers_within(anew):
        if isinstance(one.__dict__.get("state"), dict):
            one.state = RecordedStates(one.state)
    return anew


def seeded(optimizer: Optimizer, group: int, parameter: nn.Parameter) -> Optimizer:
    """Copy an optimizer with state like that of a real parameter, for classes whose constructor makes the state.

    Args:
        optimizer: the optimizer.
        group: the index of the param group whose options count.
        parameter: the scratch parameter.

    Raises:
        ProbeError: state of the parameter's shape is neither constant nor equal to the weights, as after a step.
    """
    real = optimizer.param_groups[group]["params"][0]
    twin = copied(optimizer, group, parameter)
    for one, other in zip(layers_within(optimizer), layers_within(twin), strict=True):
        state = {key: _seed(content, real, parameter) for key, content in one.state.get(real, {}).items()}
        if state and parameter not in other.state:
            other.state[parameter] = state
    return twin


def _seed(content: Any, real: Tensor, parameter: Tensor) -> Any:
    if not isinstance(content, Tensor) or content.shape != real.shape:
        return copy.deepcopy(content)
    if torch.equal(content, real):
        return parameter.detach().clone()
    first = content.reshape(-1)[0]
    if not bool((content == first).all()):
        raise ProbeError("the optimizer has stepped")
    return torch.full_like(parameter, first.item(), dtype=content.dtype).detach()


def layers_within(optimizer: Any) -> tuple[Any, ...]:
    """Return all optimizers that one object consists of.

    Args:
        optimizer: an optimizer, or a wrapper around one.

    Returns:
        The optimizer that takes the step, then its wrappers, the outermost first, and its parts.
    """
    layers = layers_of(optimizer)
    return (layers.stepping, *layers.wrappers, *layers.parts)


class ProbeError(Exception):
    """A copy of the optimizer cannot be stepped on a scratch parameter; the cause says why."""


class HiddenStateError(ProbeError):
    """The optimizer keeps numbers that belong to weights outside of the state of their parameter."""


@contextmanager
def foreign_code() -> Iterator[None]:
    """Turn any error that the optimizer's own code raises into a :class:`ProbeError`."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
        within = dropwhile(Path(__file__).samefile, (file for file in files if file.exists()))
        if any(file.is_relative_to(_PACKAGE) for file in within):
            raise  # the mistake is in this package
        raise ProbeError(f"{type(error).__name__}: {error}") from error


_PACKAGE = Path(__file__).parents[2]


def step(optimizer: Optimizer, closure: Callable[[], Tensor] | None = None) -> None:
    """Take one step of a copy, without the hooks that torch runs for all optimizers.

    Args:
        optimizer: the copy.
        closure: of the step, if it takes one.

    Raises:
        ProbeError: the optimizer's code raises an error.
    """
    take = step_without_hooks(type(optimizer))
    arguments = () if closure is None else (closure,)
    with foreign_code():
        take(optimizer, *arguments)


def prepare(optimizer: Any) -> None:
    """Switch a copy to training mode, as schedule-free optimizers require before a step.

    Args:
        optimizer: changed in place if its class has a method ``train``.
    """
    switch = getattr(type(optimizer), "train", None)
    if callable(switch):
        with foreign_code():
            switch(optimizer)


def is_plain(content: Tensor) -> bool:
    """Return whether a tensor stores the numbers that it stands for, at least those of this rank."""
    return type(content) in (Tensor, nn.Parameter) or is_sharded(content)


def values_of(content: Tensor) -> Tensor:
    """Return the numbers that a tensor in an optimizer's state stands for.

    Raises:
        ProbeError: its class has no ``dequantize()`` of its own.
    """
    if is_plain(content):
        return content.detach()
    dequantize = getattr(type(content), "dequantize", None)
    if dequantize is None or dequantize is Tensor.dequantize:
        raise ProbeError(f"its state has tensors of the class {type(content).__name__}, which has no dequantize()")
    values: Tensor = dequantize(content.detach())
    return values


class RecordedState(dict[str, Any]):
    """The state of one parameter, which records what each key was set to first.

    Attributes:
        first: the first value of each key.
    """

    def __init__(self, content: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self.first: dict[str, Any] = {}
        self.update(content)

    def __setitem__(self, key: str, content: Any) -> None:
        if key not in self.first:
            self.first[key] = values_of(content).clone() if isinstance(content, Tensor) else content
        super().__setitem__(key, content)

    def setdefault(self, key: str, content: Any = None) -> Any:
        """Behave as in any dict, and record first values."""
        if key not in self:
            self[key] = content
        return self[key]

    def update(self, *contents: Any, **named: Any) -> None:
        """Behave as in any dict, and record first values."""
        for key, content in dict(*contents, **named).items():
            self[key] = content


class RecordedStates(defaultdict[Any, Any]):
    """The state of an optimizer's parameters, each a :class:`RecordedState`."""

    def __init__(self, content: Mapping[Any, Any] = MappingProxyType({})) -> None:
        super().__init__(RecordedState)
        for key, state in content.items():
            self[key] = state

    def __setitem__(self, key: Any, state: Any) -> None:
        super().__setitem__(key, RecordedState(state) if type(state) in (dict, defaultdict) else state)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Keep the states of all global random generators, and suppress warnings.

    Args:
        device: on which the block computes.
    """
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 an optimizer may draw from it
    with (
        torch.random.fork_rng(devices, device_type=kind),
        warnings.catch_warnings(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@attrs.frozen
class _Kind:
    """How attributes of one kind are copied."""

    applies: Callable[[str, Any], bool]
    copy: Callable[[Any, dict[int, Any], list[dict[str, Any]]], Any]


def _copy_of(optimizer: Optimizer, memo: dict[int, Any], groups: list[dict[str, Any]]) -> Optimizer:
    twin: Optimizer = object.__new__(type(optimizer))
    memo[id(optimizer)] = twin
    for name, content in vars(optimizer).items():
        if name == "step":
            continue  # a scheduler's counter, or a compiled step, that is bound to the real optimizer
        handled = next((one for one in _KINDS if one.applies(name, content)), None)
        twin.__dict__[name] = handled.copy(content, memo, groups) if handled else _attribute(content, memo)
    return twin


def _inner(optimizer: Optimizer, memo: dict[int, Any], groups: list[dict[str, Any]]) -> Any:
    return memo[id(optimizer)] if id(optimizer) in memo else _copy_of(optimizer, memo, groups)


def _attribute(content: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(content, memo)
    except (TypeError, RuntimeError, ValueError) as error:
        if isinstance(content, Tensor | Mapping | list | tuple | set):
            raise ProbeError(str(error)) from error
        return content  # a process group, a stream or a lock, to which no step writes


_KINDS = (
    _Kind(lambda name, _: is_hooks_attribute(name), lambda *_: OrderedDict()),
    _Kind(lambda name, _: name == "state", lambda content, memo, _: memo.setdefault(id(content), RecordedStates())),
    _Kind(lambda name, _: name == "param_groups", lambda _, __, groups: groups),
    _Kind(lambda _, content: looks_like_optimizer(content), _inner),
    _Kind(
        lambda _, content: isinstance(content, list | tuple) and any(map(looks_like_optimizer, content)),
        lambda content, memo, groups: [_inner(one, memo, groups) for one in content],
    ),
    _Kind(lambda _, content: isinstance(content, torch.Generator), lambda content, *_: content.clone_state()),
)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the options of a param group."""
    options = {key: copy.deepcopy(content) for key, content in group.items() if key != "params"}
    rate = options.get("lr")
    if rate is not None and float(rate) == 0.0:  # a warm-up begins with it, and weights that do not move show nothing
        options["lr"] = torch.full_like(rate, 1e-3) if isinstance(rate, Tensor) else 1e-3
    return options
