"""Modules of compact storage, which have no weight Parameters: to read such an attribute makes the dense tensor."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.modules import own_parameters
from sparsecore_torch._torch_internals.tensors import is_fake
from sparsecore_torch.sparse_training.model.parameters import NamedParameter, named_modules, unwrapped
from sparsecore_torch.sparse_training.storage import sparse_weights
from sparsecore_torch.sparse_training.storage.compact_weights import CompactWeights, compact_weights, values_name
from sparsecore_torch.sparse_training.storage.scripting import check_untraced, refuse_script

_COMPACT = "_sparse_tensors"
"""The attribute of a module that holds what its weights are made by, and what the module was before."""


@attrs.frozen(eq=False)
class _CompactModule:
    """The attributes by which a module makes its weights, and becomes what it was.

    Attributes:
        weights: those of the whole model.
        tensors: the index in the layout of the tensor that each attribute is.
        order: the names of all its parameters in their original order.
    """

    weights: CompactWeights
    tensors: dict[str, int]
    order: tuple[str, ...]


def check_modules(model: nn.Module, tensors: Sequence[NamedParameter]) -> nn.Module:
    """Check that modules use their weights by reading attributes and in no other way.

    Args:
        model: the model, perhaps wrapped.
        tensors: the sparse tensors.

    Returns:
        The model without wrappers.

    Raises:
        InputError: a module uses its weights in another way, or a wrapper holds Parameters that are to be replaced.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise InputError(
            "DistributedDataParallel holds on to the parameters that compact storage replaces; "
            "call sparsify first, and wrap the model then"
        )
    model = unwrapped(model)
    for one in tensors:
        for module, _ in one.holders:
            for holds, why in _REFUSED.items():
                if holds(module):
                    raise InputError(
                        f"{one.name} cannot be stored compactly: {type(module).__name__} {why}; "
                        f"take storage='masked', or exclude={one.name!r}"
                    )
            if _COMPACT in module.__dict__:
                others = ", ".join(module.__dict__[_COMPACT].tensors)
                raise InputError(
                    f"{one.name} is in a module with tensors of another training in compact storage ({others}), and "
                    "all that are sparse in one module must be in one training there; take storage='masked'"
                )
    return model


def free_number(model: nn.Module) -> int:
    """Return the lowest number under which the values of a further training can be registered.

    Args:
        model: without wrappers.

    Raises:
        InputError: the model has an attribute of this name that is no values of compact storage.
    """
    used = {
        compact.weights.values_name
        for module in model.modules()
        if (compact := module.__dict__.get(_COMPACT)) is not None and compact.weights.model is model
    }
    number = next(number for number in count(1) if values_name(number) not in used)
    if hasattr(model, values_name(number)):
        raise InputError(
            f"the model has an attribute {values_name(number)!r} already, the name under which compact storage "
            "registers its values"
        )
    return number


def weights_of(tensors: Sequence[NamedParameter]) -> CompactWeights | None:
    """Return the values that make tensors of one training; None where they are no longer, or not yet, compact.

    Args:
        tensors: the sparse tensors.
    """
    module, attribute = tensors[0].holders[0]
    compact: _CompactModule | None = module.__dict__.get(_COMPACT)
    return compact.weights if compact is not None and attribute in compact.tensors else None


def compact_attributes(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Return all tensors of a model that are in compact storage.

    Args:
        model: without wrappers.

    Returns:
        For each use of a tensor its name, the module, and the attribute there.
    """
    return [
        (f"{path}.{attribute}" if path else attribute, module, attribute)
        for path, module in named_modules(model)
        if (compact := module.__dict__.get(_COMPACT)) is not None
        for attribute in compact.tensors
    ]


_REFUSED: dict[Callable[[Any], bool], str] = {
    lambda module: isinstance(module, nn.RNNBase): "hands its flattened weights to the kernel past its attributes",
    lambda module: getattr(module, "max_norm", None) is not None: "with max_norm writes into its weight",
    lambda module: isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse: "has sparse gradients",
    lambda module: isinstance(module, torch.jit.ScriptModule): "is compiled already, with its weight",
}


def make_compact(weights: CompactWeights, tensors: Sequence[NamedParameter]) -> None:
    """Let the modules make their dense weights from the values.

    Args:
        weights: the values.
        tensors: the sparse tensors, in the order of the layout.
    """
    held: dict[int, tuple[nn.Module, dict[str, int]]] = {}
    for index, one in enumerate(tensors):
        for module, attribute in one.holders:
            held.setdefault(id(module), (module, {}))[1][attribute] = index
    for module, indices in held.values():
        module.__dict__[_COMPACT] = _CompactModule(weights, indices, tuple(own_parameters(module)))
        for attribute in indices:
            del own_parameters(module)[attribute]
        cls: Any = type(module)
        module.__class__ = _reading(cls, tuple(indices))


def make_dense(model: nn.Module, weights: CompactWeights | None = None) -> dict[int, nn.Parameter]:
    """Put dense Parameters back, zero where no weight is active, on the modules of a model, or of a copy of one.

    Args:
        model: changed in place.
        weights: those of one training; None for all that the model has.

    Returns:
        The dense Parameters of these weights by the index of their tensor in the layout; empty where it is for all.
    """
    found = [module for module in model.modules() if _COMPACT in module.__dict__]
    compact_modules = [one for one in found if weights is None or one.__dict__[_COMPACT].weights is weights]
    dense: dict[tuple[int, int], nn.Parameter] = {}
    for module in compact_modules:
        compact: _CompactModule = module.__dict__[_COMPACT]
        for index in compact.tensors.values():
            if (id(compact.weights), index) not in dense:
                dense[id(compact.weights), index] = nn.Parameter(compact.weights.plain(index))
    for module in compact_modules:
        own = id(module.__dict__[_COMPACT].weights)
        _restore(module, {index: parameter for (key, index), parameter in dense.items() if key == own})
    return {index: parameter for (key, index), parameter in dense.items() if key == id(weights)}


def _restore(module: nn.Module, dense: Mapping[int, nn.Parameter]) -> None:
    compact: _CompactModule = module.__dict__.pop(_COMPACT)
    compact.weights.unregister()
    module.__class__ = type(module).__bases__[0]
    plain = {**own_parameters(module), **{attribute: dense[index] for attribute, index in compact.tensors.items()}}
    own_parameters(module).clear()
    own_parameters(module).update({name: plain.pop(name) for name in compact.order if name in plain} | plain)


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model with dense Parameters, zero where no weight is active, whatever its storage.

    Args:
        model: is not changed.
    """
    copied = copy.deepcopy(model)
    make_dense(copied)
    return copied


def active_values(module: nn.Module, attribute: str) -> Tensor:
    """Return the active values of a weight in compact storage, differentiable.

    Args:
        module: the module that has the weight.
        attribute: the weight's name there.

    Returns:
        (N_i,), in the order of the topology.
    """
    compact: _CompactModule = module.__dict__[_COMPACT]
    return compact.weights.entries(compact.tensors[attribute])


@cache
def _reading(cls: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    """Return the class of modules that make these attributes when they are read."""
    dtype_of = _stored_dtype if issubclass(cls, _NOT_AUTOCAST) else _computing_dtype
    readers = {name: _reader(cls, name, dtype_of) for name in attributes}
    body = {**readers, **_refused_writes(cls, frozenset(attributes))}
    body |= {"requires_grad_": _requires_grad, "__prepare_scriptable__": refuse_script}
    return type(f"Compact{cls.__name__}", (cls,), body)


def _refused_writes(cls: type[nn.Module], attributes: frozenset[str]) -> dict[str, Callable[..., None]]:
    """Return the methods by which attributes are set, deleted and drawn anew, which refuse the weights."""

    def refuse(module: nn.Module, name: str) -> None:
        values = module.__dict__[_COMPACT].weights.values_name
        raise InputError(
            f"the {name} of this {cls.__name__} is in compact storage, made of the model's Parameter {values} whenever "
            f"it is read, and cannot be replaced, deleted or drawn anew; torch.func.functional_call takes {values}. "
            "For anything else take storage='masked'"
        )

    def set_attribute(module: nn.Module, name: str, value: Any) -> None:
        if name in attributes:
            refuse(module, name)
        cls.__setattr__(module, name, value)

    def delete_attribute(module: nn.Module, name: str) -> None:
        if name in attributes:
            refuse(module, name)
        cls.__delattr__(module, name)

    def register_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        weight = name.removesuffix("_orig")  # torch.nn.utils.prune registers it so
        if weight in attributes:
            refuse(module, weight)
        cls.register_parameter(module, name, parameter)

    def reset_parameters(module: nn.Module) -> None:
        refuse(module, ", ".join(sorted(attributes)))

    methods: dict[str, Callable[..., None]] = {"__setattr__": set_attribute, "__delattr__": delete_attribute}
    methods["register_parameter"] = register_parameter
    return {**methods, "reset_parameters": reset_parameters} if hasattr(cls, "reset_parameters") else methods


def _requires_grad(module: nn.Module, requires_grad: bool = True) -> nn.Module:
    if not requires_grad:
        values = module.__dict__[_COMPACT].weights.values_name
        raise InputError(
            f"the weights of this {type(module).__bases__[0].__name__} are part of the one Parameter {values} of "
            "compact storage and cannot be frozen by themselves; take storage='masked', or freeze the layer before "
            "sparsify"
        )
    return nn.Module.requires_grad_(module, requires_grad)


def _reader(cls: type[nn.Module], attribute: str, dtype_of: Callable[[Tensor], torch.dtype]) -> property:
    def read(module: nn.Module) -> Tensor:
        compact: _CompactModule = module.__dict__[_COMPACT]
        if torch.compiler.is_compiling() and sparse_weights.IS_CUTTING:
            return stored_weight(compact.weights.values, compact.weights.key, compact.tensors[attribute])
        check_untraced(cls)
        return compact.weights.dense(compact.tensors[attribute], dtype_of)

    return property(read, doc=f"The dense {attribute}, zero where no weight is active; made when it is read.")


def _stored_weight(values: Tensor, key: int, index: int) -> Tensor:
    weights = compact_weights(key)
    if is_fake(values):
        return values.new_empty(weights.topology.layout.shapes[index])
    return weights.dense(index, _computing_dtype)


_allow_in_graph: Any = torch.compiler.allow_in_graph
stored_weight: Callable[[Tensor, int, int], Tensor] = _allow_in_graph(_stored_weight)
"""From the N values, the key of the compact weights and the index of a tensor to the dense tensor.

A call of it is a node in the graphs of compiled models, by which the kernels find the values.
"""


def stored_entries(values: Tensor, key: int, indices: tuple[int, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
    """Return the active values of several tensors, of the arguments that :func:`stored_weight` takes for one."""
    return compact_weights(key).several_entries(indices)


_NOT_AUTOCAST = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear, ParametrizationList)
"""Modules whose weight autocast does not cast, or not before something else has read it."""


def _stored_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype in which the values are stored."""
    return values.dtype


def _computing_dtype(values: Tensor) -> torch.dtype:
    """The dtype of autocast, where it is on: its own copy of the weight would be saved whole for the backward pass."""
    device = values.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on and values.dtype is not torch.float64 else values.dtype
