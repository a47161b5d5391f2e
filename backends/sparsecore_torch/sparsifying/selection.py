"""Which of a model's tensors become sparse, and why the others do not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import attrs
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.parameters import NamedParameter, named_parameters

Globs = str | Sequence[str] | None
Rule = Callable[[NamedParameter], bool]

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_SHOWN = 30
"""So many names are listed in a sentence."""


@attrs.frozen(eq=False)
class Selection:
    """The sparse tensors in the model's order, and for every other parameter why it is not one of them."""

    sparse: tuple[NamedParameter, ...]
    left_out: Mapping[str, str]


def select(model: nn.Module, include: Globs = None, exclude: Globs = None) -> Selection:
    """The tensors that become sparse.

    Args:
        model: without wrappers.
        include: globs on parameter names, which replace the default choice: every parameter of two or more
            dimensions but norms, the first convolution and the last linear layer.
        exclude: globs on parameter names that stay dense.

    Raises:
        InputError: a glob matches nothing, or no tensor is left.
    """
    parameters = named_parameters(model)
    included, excluded = _globs("include", include, parameters), _globs("exclude", exclude, parameters)
    rules: dict[str, Rule] = {
        **_ALWAYS,
        **({"not included": lambda one: not _matches(one, included)} if include is not None else _default(model)),
        **_VECTORS,
        "excluded": lambda one: _matches(one, excluded),
    }
    reasons = {one.name: next((why for why, holds in rules.items() if holds(one)), None) for one in parameters}
    sparse = tuple(one for one in parameters if reasons[one.name] is None)
    left_out = {name: why for name, why in reasons.items() if why is not None}
    if not sparse:
        raise InputError(_nothing_left(left_out))
    return Selection(sparse, MappingProxyType(left_out))


_ALWAYS: Mapping[str, Rule] = MappingProxyType(
    {
        "not a floating-point tensor": lambda one: not one.parameter.is_floating_point(),
        "frozen": lambda one: not one.parameter.requires_grad,
        "empty": lambda one: one.parameter.numel() == 0,
    }
)
_VECTORS: Mapping[str, Rule] = MappingProxyType(
    {
        "bias": lambda one: any(
            attribute.startswith("bias") or attribute.endswith("_bias") for _, attribute in one.places
        ),
        "fewer than two dimensions": lambda one: one.parameter.ndim < 2,
    }
)


def _default(model: nn.Module) -> dict[str, Rule]:
    """Norms, the first convolution, the last linear layer; what is tied to one of these belongs to it."""
    convolutions = [name for name, module in model.named_modules() if isinstance(module, _ConvNd)]
    linear_layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return {
        "norm": lambda one: any(isinstance(module, _NORMS) for module, _ in one.places),
        # biases before layers: that of the last layer is a bias first of all
        **_VECTORS,
        "first convolution": lambda one: one.is_within(convolutions[:1]),
        "last linear layer": lambda one: one.is_within(linear_layers[-1:]),
    }


def _globs(argument: str, given: Globs, parameters: Iterable[NamedParameter]) -> tuple[str, ...]:
    globs = () if given is None else _several(given)
    if not all(isinstance(glob, str) for glob in globs):
        raise InputError(f"{argument} is a glob on parameter names, or several; given {given!r}")
    for glob in globs:
        if not any(_matches(one, [glob]) for one in parameters):
            names = [one.name for one in parameters]
            raise InputError(f"{argument}={glob!r} matches no parameter; the model has {_listed(names)}")
    return globs


def _several(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def _matches(one: NamedParameter, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for name in one.names for glob in globs)


def _nothing_left(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return "the model has no parameters, so there is no tensor to make sparse"
    told = _listed([f"{name} ({why})" for name, why in left_out.items()])
    return f"no tensor is left to make sparse: {told}; name those of two or more dimensions with include="


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
