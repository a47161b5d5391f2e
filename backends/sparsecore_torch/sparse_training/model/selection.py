"""Selects the tensors of a model that become sparse, and says why the others do not."""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sparsecore.engine.side_orders import SideOrder
from sparsecore.errors import InputError, listed
from sparsecore.sparse_training.groups import Reasons, check_possible, reasons_in_groups, selector_name
from sparsecore.sparse_training.names import (
    HEAD,
    NO_TOKENS,
    POSITION_NETWORKS,
    POSITIONS,
    TOKENS,
    TYPES,
    has_word,
    is_adapter,
)
from sparsecore_torch._torch_internals.modules import own_buffers
from sparsecore_torch.sparse_training.model.parameters import NamedParameter, named_modules, named_parameters
from sparsecore_torch.sparse_training.model.selectors import Selector, Selectors, matching, several
from sparsecore_torch.sparse_training.model.weight_matrices import (
    Use,
    class_names,
    is_convolution,
    is_norm,
    is_router,
    kind_by_class,
    kind_by_name,
    side_order,
    uses_of,
)

_SHOWN = 30
"""The number of names that a sentence lists."""


@attrs.frozen(eq=False)
class Selection:
    """The sparse tensors of a model in its order, and the reason for each other parameter why it stays dense.

    Attributes:
        sparse: the tensors.
        left_out: why the other parameters are dense, by name.
        by_name: the kind of those sparse tensors that the default knows by the names of modules and parameters alone.
        side_orders: the order of the sides of those sparse tensors whose first side is not that of the outputs.
    """

    sparse: tuple[NamedParameter, ...]
    left_out: Mapping[str, str]
    by_name: Mapping[str, str] = MappingProxyType({})
    side_orders: Mapping[str, SideOrder] = MappingProxyType({})


@attrs.frozen(eq=False)
class _Candidate:
    """A parameter with all its uses."""

    named: NamedParameter
    uses: tuple[Use, ...]

    @property
    def parameter(self) -> nn.Parameter:
        return self.uses[0].parameter


Rule = Callable[[_Candidate], bool]


def select(
    model: nn.Module, include: Selectors = None, exclude: Selectors = None, groups: Sequence[Selector] = ()
) -> Selection:
    """Select the tensors that become sparse.

    Args:
        model: without wrappers.
        include: globs on parameter names and classes of modules, which replace the default choice: the weights of
            linear, convolution, token embedding, recurrent and attention modules and stacks of experts, except for
            the first convolution and the last linear layer.
        exclude: globs on parameter names and classes of modules that stay dense.
        groups: globs on parameter names and classes of modules, which choose among the tensors above: others stay
            dense. Where all tensors that one of them matches are dense by default, it makes them sparse.

    Raises:
        InputError: a glob or a class matches nothing, no tensor is left, or one cannot be trained sparsely.
    """
    parameters = named_parameters(model)
    by_selector, excluded_by = (
        [(one, matching(model, argument, one, parameters)) for one in several(given)]
        for argument, given in (("include", include), ("exclude", exclude))
    )
    included, excluded = (frozenset[str]().union(*(names for _, names in one)) for one in (by_selector, excluded_by))
    candidates = [_Candidate(one, uses_of(model, one)) for one in parameters]
    chosen: dict[str, Rule] = {
        **_VECTORS,
        "excluded": lambda one: one.named.name in excluded,
    }
    default = {"not included": lambda one: one.named.name not in included} if include is not None else _default(model)
    reasons = _reasons(candidates, {**_ALWAYS, **default, **chosen})
    check_possible(by_selector, reasons, _VECTORS, "tensor")
    if include is None:
        reasons = {one.named.name: reasons[one.named.name] or _obstacle_by_default(one) for one in candidates}
    if groups:
        always = reasons if include is not None else _reasons(candidates, {**_ALWAYS, **chosen})
        matched = ((selector_name(one), matching(model, "sparsity", one, parameters)) for one in groups)
        reasons = reasons_in_groups(matched, reasons, always, "tensor")
    sparse = [one for one in candidates if reasons[one.named.name] is None]
    left_out = {name: why for name, why in reasons.items() if why is not None}
    if not sparse:
        raise InputError(_nothing_left(left_out))
    _check_computable(sparse)
    by_name = {} if include is not None else {one.named.name: kind for one in sparse if (kind := _kind_by_name(one))}
    orders = {one.named.name: order for one in sparse for use in one.uses if (order := side_order(use))}
    return Selection(
        tuple(one.named for one in sparse),
        MappingProxyType(left_out),
        MappingProxyType(by_name),
        MappingProxyType(orders),
    )


def _reasons(candidates: Sequence[_Candidate], rules: Mapping[str, Rule]) -> Reasons:
    return {one.named.name: next((why for why, holds in rules.items() if holds(one)), None) for one in candidates}


def _of_use(holds: Callable[[Use], bool]) -> Rule:
    """A rule that applies to a parameter if it applies to one of its uses."""
    return lambda one: any(map(holds, one.uses))


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
            attribute.startswith("bias") or attribute.endswith("_bias") for _, attribute in one.named.holders
        ),
        "fewer than two dimensions": lambda one: one.parameter.ndim < 2,
    }
)


def _default(model: nn.Module) -> dict[str, Rule]:
    """Why parameters are dense by default. A tied parameter is dense if one of its uses is."""
    convolutions = [name for name, module in named_modules(model) if is_convolution(module)]
    linear_layers = [
        name
        for name, module in named_modules(model)
        if isinstance(module, nn.Linear) or (hasattr(module, "weight") and _is_called_linear(module))
        if not is_adapter(name)
    ]
    heads = list(_heads(model))
    return {
        "norm": _of_use(is_norm),
        # vectors come before layers, so that the bias of the last layer is reported as a bias
        **_VECTORS,
        "first convolution": lambda one: one.named.is_within(convolutions[:1]),
        "last linear layer": lambda one: one.named.is_within(linear_layers[-1:]),
        "output layer, by its name": lambda one: one.named.is_within(heads),
        "magnitude of weight_norm": _of_use(_is_magnitude),
        "a vector: at most one side is longer than one": lambda one: sum(side > 1 for side in one.parameter.shape) < 2,
        "embedding of types": _of_use(lambda use: _is_table_of(TYPES, use)),
        "relative or absolute positions": _of_use(
            lambda use: _is_table_of(POSITIONS, use) or has_word(POSITION_NETWORKS, *use.path[-3:])
        ),
        "embedding of something else than tokens": _of_use(lambda use: _is_table_of(NO_TOKENS, use)),
        "low-rank adapter": lambda one: any(map(is_adapter, one.named.names)),
        "router of experts": _of_use(is_router),
        "depthwise convolution": _of_use(_is_depthwise),
    }


def _is_called_linear(module: nn.Module) -> bool:
    return any(re.search(r"Linear|Conv1D$|Dense$", name) for name in class_names(module))


def _is_table(use: Use) -> bool:
    """Whether rows of the parameter may be looked up: it is in an embedding, or in no known layer."""
    return kind_by_class(use) in {"embedding", None} and kind_by_name(use) in {"embedding", None}


def _table_names(use: Use) -> tuple[str, ...]:
    """The names that say what is looked up: the table's own, and those around it unless its own speaks of tokens."""
    last = use.path[-1] if use.attribute == "weight" and use.path else use.attribute
    own = (last, *class_names(use.layer))
    return own if has_word(TOKENS, last) else (*own, *use.path[-2:])


def _is_table_of(pattern: str, use: Use) -> bool:
    return _is_table(use) and has_word(pattern, *_table_names(use))


def _is_magnitude(use: Use) -> bool:
    """Whether the parameter is the vector by which weight_norm multiplies rows."""
    if use.parametrization is None:
        return getattr(use.layer, f"{use.attribute}_g", None) is use.parameter
    parametrization, name = use.parametrization
    return name == "original0" and any("WeightNorm" in type(module).__name__ for module in parametrization.children())


def _is_direction(use: Use) -> bool:
    """Whether the parameter is the direction of an old-style weight_norm."""
    return getattr(use.layer, f"{use.attribute}_v", None) is use.parameter


def _is_depthwise(use: Use) -> bool:
    layer: Any = use.layer
    return is_convolution(layer) and 1 < getattr(layer, "groups", 1) == getattr(layer, "in_channels", None)


def _heads(model: nn.Module) -> Iterator[str]:
    """The names of output layers, by their own names or those of modules in which they are alone or last."""
    for name, module in named_modules(model):
        if HEAD.fullmatch(name.rpartition(".")[2]):
            several = isinstance(module, nn.ModuleList | nn.ModuleDict)
            for within, head in module.named_children() if several else [("", module)]:
                layers = [
                    path for path, layer in named_modules(head) if isinstance(layer, nn.Linear) or is_convolution(layer)
                ]
                if len(layers) == 1 or (layers and isinstance(head, nn.Sequential)):
                    yield ".".join(filter(None, (name, within, layers[-1])))


def _kind_by_name(one: _Candidate) -> str | None:
    """The kind of weight matrix by names, where no class of torch says it."""
    if any(kind_by_class(use) for use in one.uses):
        return None
    return next((kind for use in one.uses if (kind := kind_by_name(use))), None)


def _obstacle_by_default(one: _Candidate) -> str | None:
    """Why a parameter that no rule has left out is dense: it is no weight matrix, or cannot hold zeros."""
    for use in one.uses:
        if kind_by_class(use) is None and kind_by_name(use) is None:
            return f"no weight matrix of a known layer, in {type(use.layer).__name__}"
    return _obstacle_to_zeros(one)


def _check_computable(sparse: Iterable[_Candidate]) -> None:
    """Check that the selected tensors can be sparse weights, and have no other mask.

    Raises:
        InputError: one cannot.
    """
    for one in sparse:
        for use in one.uses:
            _check_unmasked(one.named.name, use)
        obstacle = _obstacle_to_zeros(one)
        if obstacle:
            raise InputError(
                f"{one.named.name} cannot be sparse: {obstacle}; remove the parametrization first, or leave it dense "
                f"with exclude={one.named.name!r}"
            )


def _check_unmasked(name: str, use: Use) -> None:
    layer = ".".join(use.path) or "the model"
    if f"{use.attribute}_mask" in own_buffers(use.layer):
        raise InputError(
            f"{name} has a mask of torch.nn.utils.prune already, and two masks together zero more weights than either "
            f"alone; remove the first one with prune.remove on {layer} and {use.attribute!r}, which leaves its zeros "
            f"as ordinary values, or take it over with start='nonzero', or leave the tensor dense with exclude={name!r}"
        )
    masks = [] if use.parametrization is None else [dict(m.named_buffers()).get("mask") for m in use.parametrization[0]]
    if any(mask is not None and mask.shape == use.parameter.shape for mask in masks):
        raise InputError(
            f"{name} has a mask already, in a parametrization of {layer}, and two masks together zero more weights "
            f"than either alone; remove the first one (squash_mask, or "
            f"torch.nn.utils.parametrize.remove_parametrizations), or leave the tensor dense with exclude={name!r}"
        )


def _obstacle_to_zeros(one: _Candidate) -> str | None:
    """Why zeros of a parameter would not be zeros of the weight that is computed from it."""
    for use in one.uses:
        if _is_magnitude(use):
            return "magnitude of weight_norm: one number for all of a row"
        if _is_direction(use):
            return "direction of weight_norm: a row without weights would be 0/0"
        if use.parametrization is not None:
            obstacle = _parametrization_obstacle(*use.parametrization)
            if obstacle:
                return obstacle
    return None


def _parametrization_obstacle(parametrization: nn.Module, name: str) -> str | None:
    """Why a parametrization forbids zeros, tried on a copy with zeros in every other entry and in the first rows."""
    classes = ", ".join(type(module).__name__.strip("_") for module in parametrization.children())
    devices = {one.device.index for one in parametrization.parameters() if one.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices):  # some are random
            weight, zero = _weight_from_zeros(parametrization, name)
    except Exception as error:  # it is code of another library
        return f"{classes} could not be tried on a tensor with zeros ({type(error).__name__}: {error})"
    if weight.shape != zero.shape:
        return f"{classes} computes a weight of another shape from it"
    if not weight.isfinite().all():
        return f"{classes} divides by it: a row without weights would be 0/0"
    return f"{classes} computes a weight from it that is not zero where it is" if weight[zero].any() else None


@torch.no_grad()
def _weight_from_zeros(parametrization: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """The weight that the parametrization computes, and True where the tensor that it computes it from is zero."""
    copied: Any = copy.deepcopy(parametrization).eval()
    original: Tensor = getattr(copied, name)
    zero = torch.arange(original.numel(), device=original.device).reshape(original.shape) % 2 == 0
    for side, size in enumerate(original.shape):
        if size > 1:
            zero.select(side, 0).fill_(True)
    zero.view(-1)[-1:].fill_(False)
    numbers = torch.linspace(0.5, 1.5, original.numel(), dtype=original.dtype, device=original.device)
    original.copy_(numbers.reshape(original.shape).masked_fill(zero, 0.0))
    return copied(), zero


def _nothing_left(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return "the model has no parameters, so there is no tensor to make sparse"
    reasons = listed([f"{name} ({why})" for name, why in left_out.items()], _SHOWN)
    return f"no tensor is left to make sparse: {reasons}; name those of two or more dimensions with include="
