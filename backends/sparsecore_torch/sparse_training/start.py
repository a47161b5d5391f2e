"""What ``sparsify`` accepts as ``start``, read from files, tensors and masks of ``torch.nn.utils.prune``."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsecore.engine.arrays import Array
from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Topology
from sparsecore.sparse_training import start as shared
from sparsecore.sparse_training.start import Request, is_saved_training
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.tensors import full_tensor

Start = str | PathLike[str] | Topology | Mapping[str, Any]
"""What ``sparsify`` accepts as ``start``."""


def request_of(
    engine: Engine,
    tensors: Sequence[NamedParameter],
    scope: str,
    pruned: Mapping[int, Tensor],
    counts: Mapping[str, int] | None,
) -> Request:
    """Return what is known of the training that is to start.

    Args:
        engine: for all sparse tensors.
        tensors: the sparse tensors, in the order of the layout, with the weights that they have now.
        scope: 'tensor' or 'network', the weights among which the largest are chosen.
        pruned: the masks that ``torch.nn.utils.prune`` had on Parameters, by the identity of these.
        counts: the number of units that each tensor is to start with; None where the strategies decide.
    """
    by_name = {one.name: one for one in tensors}
    dtype = functools.reduce(torch.promote_types, (one.parameter.dtype for one in tensors), torch.float32)

    def nonzero(name: str) -> NDArray[np.integer]:
        one = by_name[name]
        # a weight that prune has kept counts, though it may be zero at present
        kept = pruned.get(id(one.parameter), None)
        positions = (_weights(one) if kept is None else kept.reshape(-1)).nonzero().view(-1)
        return np.asarray(positions.cpu())

    return Request(
        engine=engine,
        values=lambda name: cast(Array, _weights(by_name[name]).to(dtype)),
        nonzero=nonzero,
        sparsity=None,
        scope=scope,
        counts=counts,
    )


def _weights(one: NamedParameter) -> Tensor:
    """All weights of a tensor, row-major, (D_i,). Collective where they are sharded."""
    return full_tensor(one.parameter).detach().reshape(-1)


def read_start(start: Start) -> shared.Start:
    """Return a start whose arrays are NumPy's.

    Args:
        start: as for ``sparsify``; a file is read.

    Raises:
        InputError: a file cannot be read.
    """
    start = shared.with_content(start, "torch", extra="torch")
    if is_saved_training(start):
        return {**start, "positions": np.asarray(torch.as_tensor(start["positions"]).cpu())}
    if isinstance(start, Mapping):
        return {str(name): _on_host(start[name]) for name in start}
    return start


def _on_host(given: Any) -> NDArray[Any]:
    tensor = torch.as_tensor(given).detach().cpu()
    return (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()  # NumPy has no bfloat16


@contextmanager
def pruning_ended(model: nn.Module, *, unless: bool = False) -> Iterator[Mapping[int, Tensor]]:
    """Make the masks of ``torch.nn.utils.prune`` permanent, so that the model has plain Parameters with zeros.

    Where the block raises an error, the masks are put back.

    Args:
        model: changed in place; its Parameters stay the same objects.
        unless: whether to leave the model as it is.

    Yields:
        The mask of each Parameter that had one, by its identity.
    """
    remove: Any = prune.remove
    put_back: Any = prune.custom_from_mask
    found = [] if unless else list(_pruned(model))
    for module, name, *_ in found:
        remove(module, name)
    try:
        yield {id(parameter): mask for _, _, parameter, mask, _ in found}
    except BaseException:
        for module, name, parameter, mask, values in found:
            parameter.data.copy_(values)
            put_back(module, name, mask)
        raise


def _pruned(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter, Tensor, Tensor]]:
    """Modules, names and Parameters that are masked, the mask and a copy of the values under it."""
    for module in list(model.modules()):
        for buffer, mask in list(module.named_buffers(recurse=False)):
            name = buffer.removesuffix("_mask")
            parameter = getattr(module, f"{name}_orig", None)
            if buffer.endswith("_mask") and isinstance(parameter, nn.Parameter):
                yield module, name, parameter, mask.detach().clone() != 0, parameter.detach().clone()
