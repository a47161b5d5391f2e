"""What sparse training asks of somebody's model."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.parameters import NamedParameter, unwrapped


def check_model(model: Any) -> nn.Module:
    """The model without wrappers, if it can be trained sparsely.

    Raises:
        InputError: it is no module, its parameters have no shape yet, or lie on several devices or on none.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"sparsify takes a torch.nn.Module and its optimizer, in this order; given {type(model).__name__} first"
        )
    inner = unwrapped(model)
    lazy = [name for name, parameter in inner.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise InputError(f"{', '.join(lazy)} have no shape yet; run one batch through the model first")
    devices = sorted({str(parameter.device) for parameter in inner.parameters()})
    if len(devices) > 1:
        raise InputError(f"the model's parameters lie on several devices, {', '.join(devices)}; sparsify takes one")
    if devices == ["meta"]:
        raise InputError("the model's parameters lie on the device 'meta', without values; give them values first")
    return inner


def check_gradients(tensors: Iterable[NamedParameter]) -> None:
    """Raise an :class:`InputError` if a tensor belongs to an embedding with sparse gradients."""
    sparse = [one.name for one in tensors if any(_has_sparse_gradients(module) for module, _ in one.places)]
    if sparse:
        raise InputError(
            f"{', '.join(sparse)} would have sparse gradients, which cannot be masked; make the embedding with "
            "sparse=False, or leave it dense with exclude="
        )


def _has_sparse_gradients(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
