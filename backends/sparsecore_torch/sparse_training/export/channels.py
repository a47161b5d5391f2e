"""Channels of a traced model: which are constant, and which belong together because residual sums add them."""

import operator
from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.modules import runs_forward_hooks
from sparsecore_torch.sparse_training.export.features import INPUT, Feature, LayerUse, Space, fix, shape_of


@attrs.define(eq=False)
class Channels:
    """The channels of a model, found by a walk through its graph, in which constants move into biases.

    Attributes:
        model: traced, in evaluation mode; its layers are changed, and what it computes is not.
        layers: linear layers and convolutions without groups.
        channelwise: norms and depthwise convolutions, with the feature that they make.
    """

    model: fx.GraphModule
    layers: list[LayerUse] = attrs.field(factory=list)
    channelwise: list[tuple[nn.Module, Feature]] = attrs.field(factory=list)
    _features: dict[fx.Node, Feature] = attrs.field(factory=dict)
    _used: dict[int, str] = attrs.field(factory=dict)

    def walk(self) -> None:
        """Go through the graph.

        Raises:
            InputError: something in it cannot be followed.
        """
        for node in self.model.graph.nodes:
            self._check_arguments(node)
            self._features[node] = _NODES[node.op](self, node)

    def _check_arguments(self, node: fx.Node) -> None:
        """Check that channels come in by the arguments that are followed, and that no later node changes them."""
        if node.op not in {"call_module", "call_function", "call_method"}:
            return
        followed = node.args[: 2 if _FUNCTIONS.get(node.target) is _sum else 1]
        others = [one for one in node.all_input_nodes if one not in followed]
        if any(self.feature(one).space is not None for one in others):
            raise InputError(f"slim cannot follow {node.name!r}, which takes channels by another argument; it {_KNOWN}")
        changed = followed[0] if followed else None
        if isinstance(changed, fx.Node) and self.feature(changed).space and _is_in_place(self.model, node):
            nodes = list(self.model.graph.nodes)
            later = [one for one in changed.users if nodes.index(one) > nodes.index(node)]
            if later:
                raise InputError(
                    f"slim cannot follow {node.name!r}, which changes in place what {later[0].name!r} reads "
                    "afterwards; let it read the result"
                )

    def feature(self, argument: Any) -> Feature:
        """Return the feature of an argument of a node."""
        return self._features[argument] if isinstance(argument, fx.Node) else INPUT

    def module(self, node: fx.Node) -> Feature:
        """Return the feature that a module makes."""
        name = str(node.target)
        module = self.model.get_submodule(name)
        if not node.args:
            raise InputError(f"slim cannot follow {name!r}, which is called with keywords; give the value by position")
        if runs_forward_hooks(module):
            raise InputError(f"slim cannot follow {name!r}, which has forward hooks; remove them")
        for tensor in (*module.parameters(), *module.buffers()):
            if id(tensor) in self._used:
                raise InputError(
                    f"the layers {self._used[id(tensor)]!r} and {name!r} share a tensor, or are one that is used "
                    "twice; slim cuts only layers that are used once"
                )
            self._used[id(tensor)] = name
        handler = _MODULES.get(type(module))
        if handler is None:
            raise InputError(f"slim cannot follow {name!r}, of the class {type(module).__name__}; it {_KNOWN}")
        return handler(self, module, self.feature(node.args[0]), node)


_KNOWN = (
    "follows linear layers, convolutions, batch norms, activation functions of each entry, pooling, flattening, sums "
    "of two values and, without cutting what they read, layer and group norms"
)


def _is_in_place(model: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node writes into its first argument."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    name = getattr(node.target, "__name__", str(node.target))
    return bool(node.kwargs.get("inplace")) or node.target is operator.iadd or name.endswith("_")


def _linear(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:
    if before.space is not None and before.axis != len(shape_of(node)) - 1:
        raise InputError(f"slim cannot follow the channels into {node.target!r}, which reads another dimension")
    return _layer(channels, module, before, len(shape_of(node)) - 1)


def _convolution(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:
    if len(shape_of(node)) != module.weight.ndim:
        raise InputError(
            f"slim cannot follow {node.target!r} without a dimension of the batch; give one in the example"
        )
    if module.groups == 1 and before.axis == before.repeat == 1:
        return _layer(channels, module, before, 1)
    after = Feature(Space(module.out_channels), constants=torch.full((module.out_channels,), torch.nan).double())
    if before.space is None or not module.groups == module.in_channels == module.out_channels:
        fix(before)
        fix(after)
        return after
    before.space.join(after.space)  # type: ignore[arg-type]
    kernel = module.weight.detach().double().flatten(1)
    bias = 0 if module.bias is None else module.bias.detach().double()
    products = torch.where((kernel == 0).all(1), 0, kernel.sum(1) * _foldable(module, before.constants))
    channels.channelwise.append((module, after))
    return attrs.evolve(after, constants=products + bias)


def _layer(channels: Channels, module: Any, before: Feature, axis: int) -> Feature:
    if before.space is not None:
        _fold(module, before)
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    constants = torch.where((weight == 0).flatten(1).all(1), bias.double(), torch.nan)
    after = Feature(Space(len(weight)), axis, 1, constants)
    channels.layers.append(LayerUse(module, before, after))
    return after


def _fold(module: Any, before: Feature) -> None:
    """Move what a layer reads from constant channels into its bias."""
    constants = _foldable(module, before.constants)
    known = ~constants.isnan()
    weight = module.weight.detach().reshape(len(module.weight), len(constants), -1).clone()
    added = weight[:, known].double().sum(2) @ constants[known]
    weight[:, known] = 0
    module.weight.copy_(weight.reshape(module.weight.shape))
    if added.any():
        bias = added if module.bias is None else added + module.bias.detach()
        module.bias = nn.Parameter(bias.to(weight.dtype), module.weight.requires_grad)


def _foldable(module: Any, constants: Tensor) -> Tensor:
    """Return the constants that are the same under a whole kernel; where zeros are padded, only zero is."""
    is_padded = hasattr(module, "padding") and module.padding_mode == "zeros" and module.padding != "valid"
    if not is_padded or (not isinstance(module.padding, str) and not any(module.padding)):
        return constants
    return torch.where(constants == 0, constants, torch.nan)


def _batch_norm(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    if before.space is None or before.axis != 1 or before.repeat != 1 or module.running_mean is None:
        fix(before)
        return INPUT

    def normalized(constants: Tensor) -> Tensor:
        scaled: Tensor = (constants - module.running_mean.double()) / (module.running_var.double() + module.eps).sqrt()
        if module.weight is not None:
            scaled = scaled * module.weight.detach() + module.bias.detach()
        return scaled

    channels.channelwise.append((module, before))
    return before.mapped(normalized)


def _all_channels(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    fix(before)
    return INPUT


def _each_entry(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    return before.mapped(module)


def _dropped(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    return before


def _pooled(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    shape = shape_of(node.args[0])
    if before.space is not None and (before.axis != 1 or before.repeat != 1 or len(shape) < 3):
        raise InputError(f"slim cannot follow {node.name!r}, which pools channels of the shape {shape}; it {_KNOWN}")
    return before


def _average_pooled(channels: Channels, module: Any, before: Feature, node: fx.Node) -> Feature:
    before = _pooled(channels, module, before, node)
    # padded zeros are averaged with the pixels
    return before.mapped(lambda constants: torch.where(constants == 0, constants, torch.nan))


def _flattened(channels: Channels, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    old, new = shape_of(node.args[0]), shape_of(node)
    if before.space is None or old == new:
        return before
    if before.axis != 1 or new != (old[0], prod(old[1:])):
        raise InputError(f"slim cannot follow {node.name!r}, which changes the shape {old} to {new}; it {_KNOWN}")
    if any(type(size) is int and size not in {-1, 1} for size in node.args[1:] if node.target in {"view", "reshape"}):
        fix(before)  # the number of entries is written down in the model's code
    return attrs.evolve(before, repeat=before.repeat * prod(old[2:]))


def _averaged(channels: Channels, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    dimensions = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    rank = len(shape_of(node.args[0]))
    listed = dimensions if isinstance(dimensions, list | tuple) else [dimensions]
    if before.space is not None and (before.axis != 1 or any(type(one) is not int or one % rank < 2 for one in listed)):
        raise InputError(f"slim cannot follow {node.name!r}, a mean over {dimensions}; it follows means over pixels")
    return before


def _sum(channels: Channels, before: Feature, node: fx.Node) -> Feature:
    other = channels.feature(node.args[1])
    shapes = [shape_of(one) if isinstance(one, fx.Node) else () for one in node.args[:2]]
    if node.kwargs or shapes[0] != shapes[1]:
        raise InputError(f"slim cannot follow {node.name!r}, a sum of the shapes {shapes[0]} and {shapes[1]}")
    if before.space is None or other.space is None:
        fix(before)
        fix(other)
        return INPUT
    if (before.axis, before.repeat, before.space.size) != (other.axis, other.repeat, other.space.size):
        raise InputError(f"slim cannot follow {node.name!r}, which adds values whose channels are in different places")
    before.space.root.join(other.space.root)
    return before.mapped(lambda constants: constants + other.constants)


def _of_module(handle: Any) -> Callable[[Channels, Feature, fx.Node], Feature]:
    """Return the handler of a function that does what a module does."""

    def handler(channels: Channels, before: Feature, node: fx.Node) -> Feature:
        function: Any = node.target
        if isinstance(function, str):
            function = getattr(Tensor, function)
        return handle(channels, lambda constants: function(constants, *node.args[1:], **node.kwargs), before, node)  # type: ignore[no-any-return]

    return handler


def _placeholder(channels: Channels, node: fx.Node) -> Feature:  # noqa: ARG001
    return INPUT


def _output(channels: Channels, node: fx.Node) -> Feature:
    for argument in node.all_input_nodes:
        fix(channels.feature(argument))
    return INPUT


def _parameter(channels: Channels, node: fx.Node) -> Feature:  # noqa: ARG001
    raise InputError(f"slim cannot follow {node.target!r}, which the model reads outside a layer; it {_KNOWN}")


def _module(channels: Channels, node: fx.Node) -> Feature:
    return channels.module(node)


def _function(channels: Channels, node: fx.Node) -> Feature:
    before = channels.feature(node.args[0]) if node.args else INPUT
    handler = _FUNCTIONS.get(node.target)
    if handler is None:
        name = getattr(node.target, "__name__", node.target)
        raise InputError(f"slim cannot follow {name!r}; it {_KNOWN}")
    return handler(channels, before, node)


def _size(channels: Channels, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    return INPUT


def _attribute(channels: Channels, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    if before.space is not None and node.args[1] not in {"shape", "dtype", "device", "ndim"}:
        raise InputError(f"slim cannot follow {node.name!r}, the attribute {node.args[1]!r} of a value; it {_KNOWN}")
    return INPUT


def _item(channels: Channels, before: Feature, node: fx.Node) -> Feature:  # noqa: ARG001
    if before.space is not None:
        raise InputError(f"slim cannot follow {node.name!r}, which takes a part of a value; it {_KNOWN}")
    return INPUT


_NODES: Mapping[str, Callable[[Channels, fx.Node], Feature]] = MappingProxyType(
    {
        "placeholder": _placeholder,
        "output": _output,
        "get_attr": _parameter,
        "call_module": _module,
        "call_function": _function,
        "call_method": _function,
    }
)

_MODULES: Mapping[type, Callable[[Channels, Any, Feature, fx.Node], Feature]] = MappingProxyType(
    {
        nn.Linear: _linear,
        **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
        **dict.fromkeys((nn.LayerNorm, nn.GroupNorm), _all_channels),
        **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus), _each_entry),
        **dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity), _each_entry),
        **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _dropped),
        **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _pooled),
        **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), _pooled),
        **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _average_pooled),
        nn.Flatten: lambda channels, _, before, node: _flattened(channels, before, node),
    }
)

_FUNCTIONS: Mapping[Any, Callable[[Channels, Feature, fx.Node], Feature]] = MappingProxyType(
    {
        **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _sum),
        **dict.fromkeys(
            (torch.relu, functional.relu, functional.gelu, functional.silu, functional.relu6, "relu", "relu_"),
            _of_module(_each_entry),
        ),
        **dict.fromkeys((torch.sigmoid, torch.tanh, functional.leaky_relu, "sigmoid", "tanh"), _of_module(_each_entry)),
        functional.dropout: _of_module(_dropped),
        **dict.fromkeys((functional.max_pool2d, functional.adaptive_avg_pool2d), _of_module(_pooled)),
        functional.avg_pool2d: _of_module(_average_pooled),
        **dict.fromkeys((torch.flatten, "flatten", "view", "reshape"), _flattened),
        **dict.fromkeys((torch.mean, "mean"), _averaged),
        "size": _size,
        getattr: _attribute,
        operator.getitem: _item,
    }
)
