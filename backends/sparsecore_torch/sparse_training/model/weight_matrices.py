"""Finds out which parameters are weight matrices, by the module that computes with them.

Modules of torch are known by their class. Layers of other libraries are known by the names of their classes,
attributes and paths, which :mod:`sparsecore_torch.sparse_training.model.selection` reports as "by name".
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import attrs
import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from sparsecore.engine.side_orders import EXPERTS_FIRST, INPUTS_FIRST, SideOrder
from sparsecore.sparse_training.names import has_word, words
from sparsecore_torch._torch_internals.modules import CONVOLUTION_BASE, NORM_BASE, own_modules, own_parameters
from sparsecore_torch.sparse_training.model.parameters import NamedParameter, within_compiled

_CONTAINERS = (nn.ParameterList, nn.ParameterDict)
_NORMS = (NORM_BASE, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_LINEAR = (nn.Linear, nn.Bilinear)


@attrs.frozen(eq=False)
class Use:
    """One use of a parameter: the layer that computes with it, and its name there.

    A parametrized weight is used by its layer, not by the list of its parametrizations; a member of a ParameterList by
    the module that has the list.

    Attributes:
        parameter: the parameter.
        path: of the layer in the model, split at the dots.
        layer: the module.
        attribute: the layer's name for the tensor that is computed from the parameter: 'weight' also where the
            parameter is ``weight_v`` of weight_norm.
        around: the modules that the layer is part of, the innermost first.
        parametrization: the list of parametrizations that computes the tensor, and the parameter's name there.
        is_listed: whether it is a member of a list or dict of parameters that the layer has.
    """

    parameter: nn.Parameter
    path: tuple[str, ...]
    layer: nn.Module
    attribute: str
    around: tuple[nn.Module, ...]
    parametrization: tuple[ParametrizationList, str] | None = None
    is_listed: bool = False


def uses_of(model: nn.Module, one: NamedParameter) -> tuple[Use, ...]:
    """Return every use of a parameter.

    Args:
        model: without wrappers.
        one: the parameter. If a layer and a list of parameters both hold it, only the layer's use counts.
    """
    uses = tuple(_use(model, one.parameter, name) for name in one.names)
    return tuple(use for use in uses if not use.is_listed) or uses


def _use(model: nn.Module, parameter: nn.Parameter, name: str) -> Use:
    *path, attribute = name.split(".")
    modules = [model]
    for part in path:
        modules.append(within_compiled(own_modules(modules[-1])[part]))
    parametrization = None
    if isinstance(modules[-1], ParametrizationList):
        parametrization = modules[-1], attribute
        *path, _, attribute = path
        del modules[-2:]
    is_listed = isinstance(modules[-1], _CONTAINERS)
    while isinstance(modules[-1], _CONTAINERS) and path:
        *path, attribute = path
        del modules[-1]
    layer, around = modules[-1], tuple(reversed(modules[:-1]))
    return Use(parameter, tuple(path), layer, _effective(layer, attribute), around, parametrization, is_listed)


def _effective(layer: nn.Module, attribute: str) -> str:
    """Return the attribute that old-style hooks (weight_norm, spectral_norm, pruning) compute from this one."""
    stem, _, end = attribute.rpartition("_")
    return stem if end in {"g", "v", "orig"} and stem and hasattr(layer, stem) else attribute


def is_norm(use: Use) -> bool:
    """Return whether the parameter belongs to a normalization, by class or by the class's name."""
    return isinstance(use.layer, _NORMS) or (
        not isinstance(use.layer, _TYPED) and any(re.search(r"Norm(\dd)?$", name) for name in class_names(use.layer))
    )


_TYPED = (*_LINEAR, CONVOLUTION_BASE, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def kind_by_class(use: Use) -> str | None:
    """Return the kind of weight matrix in a layer of torch or a class derived from it.

    Args:
        use: of the parameter.

    Returns:
        Such as 'linear' or 'embedding'; None for other parameters of such layers, and for layers of other classes.
    """
    return next(
        (
            kind
            for kind, (types, attribute) in _BY_CLASS.items()
            if isinstance(use.layer, types) and re.fullmatch(attribute, use.attribute)
        ),
        None,
    )


_BY_CLASS: Mapping[str, tuple[tuple[type[nn.Module], ...], str]] = MappingProxyType(
    {
        "linear": (_LINEAR, "weight"),
        "convolution": ((CONVOLUTION_BASE,), "weight"),
        "embedding": ((nn.Embedding, nn.EmbeddingBag), "weight"),
        "recurrent": ((nn.RNNBase, nn.RNNCellBase), "weight_.*"),
        "attention": ((nn.MultiheadAttention,), ".*proj_weight"),
    }
)


def kind_by_name(use: Use) -> str | None:
    """Return the kind of weight matrix by the names of class, attribute and path.

    Args:
        use: of the parameter.

    Returns:
        Such as 'attention'; None where they name no kind, and for layers of torch, which are known by class.
    """
    if isinstance(use.layer, _TYPED):
        return None
    if use.parameter.ndim == 3 and is_of_experts(use):
        return "stack of experts"
    names = class_names(use.layer)
    kind = next((kind for kind, pattern in _BY_NAME.items() if any(map(pattern.search, names))), None)
    is_weight = _WEIGHT.search(use.attribute) or (kind == "attention" and _PROJECTION.fullmatch(use.attribute))
    return kind if is_weight and not _NO_WEIGHT.search(use.attribute) else None


_WEIGHT = re.compile(
    r"^(weights?|kernel|matrix)(_|\d|$)|_(weights?|kernel|proj)\d*$"
    r"|^w_?(q|k|v|o|qkv|kv|in|out|up|down|gate|e|u|h|x|ih|hh|\d+)?$",
    re.IGNORECASE,
)
_PROJECTION = re.compile(r"q|k|v|o|r|qkv|kv|query|key|value|out", re.IGNORECASE)
_NO_WEIGHT = re.compile(r"scale|gamma|beta|mask|norm|zero|temperature|bias", re.IGNORECASE)
_BY_NAME: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "stack of experts": re.compile(r"Expert|MoE|MoeMLP"),
        "embedding": re.compile(r"Embed"),
        "recurrent": re.compile(r"LSTM|GRU|RNN"),
        "attention": re.compile(r"Attention|Attn"),
        "linear": re.compile(r"Linear|Dense(?!Net)|MLP|Mlp|FeedForward|FFN|Conv1D$"),
        "convolution": re.compile(r"Conv(?!NeXt|Next)"),
    }
)
"""Patterns of class names by kind. ``Conv1D`` is transformers' linear layer; convolutions of torch have a small d."""


def class_names(module: nn.Module) -> list[str]:
    """Return the names of a module's class and of its base classes.

    Args:
        module: of a scripted one, the name of the class that it was made of is returned alone.

    Returns:
        The names, that of the module's own class first; ``Module`` and ``object`` are left out.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return [module.original_name]
    return [cls.__name__ for cls in type(module).__mro__ if cls not in (nn.Module, object)]


def is_convolution(module: nn.Module) -> bool:
    """Return whether a module is a convolution of torch, or has the name of one."""
    return isinstance(module, CONVOLUTION_BASE) or any(
        re.fullmatch(r"(Lazy)?Conv(Transpose)?[123]d", name) for name in class_names(module)
    )


def side_order(use: Use) -> SideOrder | None:
    """Return the order of a weight matrix's sides, or None where the first one is that of the outputs.

    Args:
        use: of the parameter.
    """
    names = class_names(use.layer)
    transposed = any(re.fullmatch(r"(Lazy)?ConvTranspose[123]d|Conv1D", name) for name in names)
    if transposed and use.attribute == "weight":
        return INPUTS_FIRST
    return EXPERTS_FIRST if kind_by_name(use) == "stack of experts" and use.parameter.ndim > 2 else None


def close_names(use: Use) -> tuple[str, ...]:
    """Return the names that are close to a parameter, by which its purpose is guessed.

    Returns:
        The names of the parameter, of the module that the layer is part of and of the layer, then of the layer's
        classes.
    """
    return (use.attribute, *use.path[-2:], *class_names(use.layer))


_EXPERTS = r"\w*experts?|moe|moes"
_ROUTER = r"router|routers|routing|gate|gates|gating|wg"


def is_of_experts(use: Use) -> bool:
    """Return whether a parameter is a stack of matrices, one for each expert.

    It is if class, attribute or path name experts, or if a router in the same module, or in its parent, has as many
    outputs.

    Args:
        use: of a parameter of three dimensions; one with a side of 1 is no stack.
    """
    if min(use.parameter.shape) < 2:
        return False
    if has_word(_EXPERTS, *close_names(use)) or any(
        re.search("Expert|MoE|Moe", name) for name in class_names(use.layer)
    ):
        return True
    return any(
        has_word(_ROUTER, name) and use.parameter.shape[0] in _sides(router)
        for module in (use.layer, *use.around[:1])
        for name, router in module.named_children()
    ) or any(
        has_word(_ROUTER, name) and parameter.ndim == 2 and use.parameter.shape[0] in parameter.shape
        for name, parameter in own_parameters(use.layer).items()
        if parameter is not None
    )


def _sides(module: nn.Module) -> set[int]:
    return {side for parameter in module.parameters() if parameter.ndim == 2 for side in parameter.shape}


def is_router(use: Use) -> bool:
    """Return whether the parameter scores experts: by its name, or by having one output for each expert next to it.

    A gate is a router if it has as many outputs as a stack in the same module has matrices or a list has modules, or if
    it has at most a quarter as many outputs as inputs.

    Args:
        use: of a parameter; only a matrix that is no embedding can be a router.
    """
    if use.parameter.ndim != 2 or kind_by_class(use) == "embedding":
        return False
    if has_word(r"router|routers|routing", *close_names(use)):
        return True
    outputs, inputs = use.parameter.shape
    is_layer = use.attribute in _LAYERS_WEIGHT
    container = use.around[0] if is_layer and use.around else use.layer
    if outputs in _numbers_of_experts(container):
        return True
    name = use.path[-1] if is_layer and use.path else use.attribute
    if not re.search(r"(^|_)(gate|gates|gating|wg)$|^gat(e|ing)_net", words(name)):
        return False
    counts = _depths(container).union(*map(_lengths, container.children()))
    return bool({outputs, inputs} & counts) or (is_layer and 4 * outputs <= inputs)


_LAYERS_WEIGHT = ("weight", "kernel")


def _numbers_of_experts(module: nn.Module) -> set[int]:
    """Return the numbers of experts that a module may have, in a list of modules or in stacks of matrices."""
    experts = [child for name, child in module.named_children() if has_word(_EXPERTS, name, *class_names(child))]
    return set().union(*map(_lengths, experts), *map(_depths, experts))


def _lengths(module: nn.Module) -> set[int]:
    """Return the length of a list or dict of modules."""
    return {len(module)} if isinstance(module, nn.ModuleList | nn.ModuleDict) else set()


def _depths(module: nn.Module) -> set[int]:
    """Return the first sides of its parameters of three dimensions."""
    parameters = [parameter for parameter in own_parameters(module).values() if parameter is not None]
    return {one.shape[0] for one in parameters if one.ndim == 3 and min(one.shape) > 1}
