"""The memory ledger of dense parameters in training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.ledger import Bytes, Ledger
from sparsecore_torch.sparsifying.wrapped_optimizers import tensors_in
from sparsecore_torch.storages.shards import local


def ledger_of(optimizer: Optimizer, indices: Sequence[Tensor]) -> Ledger:
    """All that the optimizer trains, dense; ``indices`` are what says where weights are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    states = [content for parameter in parameters for content in tensors_in(optimizer.state.get(parameter, {}), set())]
    return Ledger(
        values=Bytes(_entries(parameters), behind(parameters)),
        indices=Bytes(_entries(indices), behind(indices)),
        gradients=Bytes(_entries(trained), behind(gradients)),
        optimizer_state=Bytes(_entries(states), behind(states)),
    )


def behind(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind the tensors, shared memory once; of sharded ones, of this rank."""
    storages = (part.untyped_storage() for tensor in tensors for part in _parts(local(tensor)))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _entries(tensors: Iterable[Tensor]) -> int:
    return sum(part.numel() * part.element_size() for tensor in tensors for part in _parts(local(tensor)))


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The strided tensors that it is made of: gradients of an embedding may be sparse, so may parameters."""
    return _OF_LAYOUT[tensor.layout](tensor) if tensor.layout in _OF_LAYOUT else (tensor,)


_OF_LAYOUT: Mapping[torch.layout, Callable[[Tensor], tuple[Tensor, ...]]] = MappingProxyType(
    {
        torch.sparse_coo: lambda tensor: (tensor._indices(), tensor._values()),
        **dict.fromkeys(
            (torch.sparse_csr, torch.sparse_bsr),
            lambda tensor: (tensor.crow_indices(), tensor.col_indices(), tensor.values()),
        ),
        **dict.fromkeys(
            (torch.sparse_csc, torch.sparse_bsc),
            lambda tensor: (tensor.ccol_indices(), tensor.row_indices(), tensor.values()),
        ),
    }
)
