"""Modules whose weights are not there: an attribute of the Parameter's name makes the dense tensor when it is read."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals import own_parameters
from sparsecore_torch.sparse_training.model.parameters import NamedParameter, unwrapped
from sparsecore_torch.sparse_training.storage.compact_weights import VALUES, CompactWeights

_KEPT = "_sparse_tensors"
"""Where a module keeps what its weights are made by, and what it was before."""


@attrs.frozen(eq=False)
class _Kept:
    """What a module needs for its weights, and to become what it was.

    Attributes:
        weights: of the whole model.
        tensors: which of the layout's tensors an attribute is.
        order: of all its parameters, as it was.
    """

    weights: CompactWeights
    tensors: dict[str, int]
    order: tuple[str, ...]


def check_modules(model: nn.Module, tensors: Sequence[NamedParameter]) -> nn.Module:
    """The model without wrappers, if its modules use their weights by reading their attributes and in no other way.

    Raises:
        InputError: one does not, or something holds on to the Parameters that are to go.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise InputError(
            "DistributedDataParallel holds on to the parameters that compact storage replaces; "
            "call sparsify first, and wrap the model then"
        )
    model = unwrapped(model)
    if hasattr(model, VALUES):
        raise InputError(
            f"the model has an attribute {VALUES!r} already, the name under which compact storage registers its values"
        )
    for one in tensors:
        for module, _ in one.places:
            for holds, why in _REFUSED.items():
                if holds(module):
                    raise InputError(
                        f"{one.name} cannot be stored compactly: {type(module).__name__} {why}; "
                        f"take storage='masked', or exclude={one.name!r}"
                    )
    return model


_REFUSED: dict[Callable[[Any], bool], str] = {
    lambda module: isinstance(module, nn.RNNBase): "hands its flattened weights to the kernel past its attributes",
    lambda module: getattr(module, "max_norm", None) is not None: "with max_norm writes into its weight",
    lambda module: isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse: "has sparse gradients",
    lambda module: isinstance(module, torch.jit.ScriptModule): "is compiled already, with its weight",
}


def make_compact(weights: CompactWeights, tensors: Sequence[NamedParameter]) -> None:
    """Let every module read its dense weights from the values."""
    held: dict[int, tuple[nn.Module, dict[str, int]]] = {}
    for index, one in enumerate(tensors):
        for module, attribute in one.places:
            held.setdefault(id(module), (module, {}))[1][attribute] = index
    for module, indices in held.values():
        module.__dict__[_KEPT] = _Kept(weights, indices, tuple(own_parameters(module)))
        for attribute in indices:
            del own_parameters(module)[attribute]
        cls: Any = type(module)
        module.__class__ = _reading(cls, tuple(indices))


def make_dense(model: nn.Module) -> dict[int, nn.Parameter]:
    """Put plain Parameters back, zeros where no weight is, on every module of a model, or of a copy of one.

    Returns:
        The dense Parameters by the index of their tensor; none where the model was plain.
    """
    compact = [module for module in model.modules() if _KEPT in module.__dict__]
    dense: dict[int, nn.Parameter] = {}
    for module in compact:
        kept: _Kept = module.__dict__[_KEPT]
        for index in kept.tensors.values():
            if index not in dense:
                dense[index] = nn.Parameter(kept.weights.plain(index))
    for module in compact:
        _restore(module, dense)
    return dense


def _restore(module: nn.Module, dense: Mapping[int, nn.Parameter]) -> None:
    kept: _Kept = module.__dict__.pop(_KEPT)
    kept.weights.unregister()
    module.__class__ = type(module).__bases__[0]
    plain = {**own_parameters(module), **{attribute: dense[index] for attribute, index in kept.tensors.items()}}
    own_parameters(module).clear()
    own_parameters(module).update({name: plain.pop(name) for name in kept.order if name in plain} | plain)


def entries_of(module: nn.Module, attribute: str) -> Tensor:
    """The values of a compact module's weight that exist, in the order of the topology; differentiable."""
    kept: _Kept = module.__dict__[_KEPT]
    return kept.weights.entries(kept.tensors[attribute])


@cache
def _reading(cls: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    """The class of modules that make these attributes when they are read."""
    dtype = _own_dtype if issubclass(cls, _LEFT_ALONE) else _computing_dtype
    readers = {name: _reader(name, dtype) for name in attributes}
    return type(f"Compact{cls.__name__}", (cls,), {**readers, "requires_grad_": _requires_grad})


def _requires_grad(module: nn.Module, requires_grad: bool = True) -> nn.Module:
    if not requires_grad:
        raise InputError(
            f"the weights of this {type(module).__bases__[0].__name__} are part of the one Parameter {VALUES} of "
            "compact storage and cannot be frozen by themselves; take storage='masked', or freeze the layer before "
            "sparsify"
        )
    return nn.Module.requires_grad_(module, requires_grad)


def _reader(attribute: str, dtype: Callable[[Tensor], torch.dtype]) -> property:
    def read(module: nn.Module) -> Tensor:
        kept: _Kept = module.__dict__[_KEPT]
        return kept.weights.dense(kept.tensors[attribute], dtype(kept.weights.values))

    return property(read, doc=f"The dense {attribute}, zero where no weight is; made when it is read.")


_LEFT_ALONE = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear, ParametrizationList)
"""Modules whose weight autocast does not change, or not before something else has read it."""


def _own_dtype(values: Tensor) -> torch.dtype:
    """That in which the values are stored."""
    return values.dtype


def _computing_dtype(values: Tensor) -> torch.dtype:
    """Autocast's, where it is on: its own copy of the weight would be saved whole for the backward pass."""
    device = values.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on and values.dtype is not torch.float64 else values.dtype
