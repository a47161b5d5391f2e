"""Where the entries of tensors are: shards of tensors that are spread over ranks, shared memory, and bytes in use."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparsecore_torch._torch_internals.tensors import coo_parts, is_traceable_wrapper_subclass


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor, as ``fully_shard`` makes them."""
    # no DTensor exists before its module has been imported, which takes half a second
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor from the shards of all ranks. Collective where the tensor is sharded.

    Args:
        tensor: a tensor, or a DTensor.

    Returns:
        The tensor with all its entries, detached.
    """
    sharded: Any = tensor.detach()
    dense: Tensor = sharded.full_tensor() if is_sharded(sharded) else sharded
    return dense


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor; all of it if it is not sharded.

    Returns:
        A detached tensor that shares the memory.
    """
    sharded: Any = tensor.detach()
    shard: Tensor = sharded.to_local() if is_sharded(sharded) else sharded
    return shard


def shard_like(dense: Tensor, like: Tensor) -> Tensor:
    """Return this rank's shard of a tensor that every rank has; no rank communicates.

    Args:
        dense: the tensor, the same on all ranks.
        like: a tensor of the same shape, which is sharded in the way wanted, or not at all.
    """
    if not is_sharded(like):
        return dense
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return local_shard(distribute_tensor(dense, sharded.device_mesh, sharded.placements, src_data_rank=None))


def allocated_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of memory that hold tensors on this rank.

    Args:
        tensors: of any layout, sharded or not. Memory that several share counts once, and all of it where a tensor is a
            view of a part.
    """
    storages = (part.untyped_storage() for tensor in tensors for part in _strided_parts(local_shard(tensor)))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def entry_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of all entries of tensors on this rank.

    Args:
        tensors: of any layout; of sparse ones indices and values count, of sharded ones this rank's shards. An entry
            that several views share counts several times.
    """
    return sum(part.numel() * part.element_size() for tensor in tensors for part in _strided_parts(local_shard(tensor)))


def _strided_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The strided tensors that a tensor consists of; parameters and gradients of embeddings may be sparse tensors."""
    return _PARTS_BY_LAYOUT[tensor.layout](tensor) if tensor.layout in _PARTS_BY_LAYOUT else (tensor,)


_PARTS_BY_LAYOUT: Mapping[torch.layout, Callable[[Tensor], tuple[Tensor, ...]]] = MappingProxyType(
    {
        torch.sparse_coo: coo_parts,
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


def has_memory(tensor: Tensor) -> bool:
    """Return whether the entries have addresses.

    Args:
        tensor: those on the device 'meta', sparse ones and wrappers such as DTensors have none.
    """
    return tensor.layout is torch.strided and not tensor.is_meta and not is_traceable_wrapper_subclass(tensor)


def is_non_overlapping_and_dense(tensor: Tensor) -> bool:
    """Return whether the entries fill one stretch of memory, each address once, in whatever order.

    Args:
        tensor: a strided one; channels last is dense, a slice with a step or an expanded side is not.
    """
    sides = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    expected = 1
    for stride, side in sides:
        if side > 1 and stride != expected:
            return False
        expected *= side
    return True


def have_equal_order(first: Tensor, second: Tensor) -> bool:
    """Return whether the entries of two strided tensors of one shape lie in memory in the same order and distances.

    The strides of sides of length one, which torch chooses in several ways, say nothing.
    """
    if first.stride() == second.stride():
        return True
    sides = zip(first.shape, first.stride(), second.stride(), strict=True)
    return all(one == other for side, one, other in sides if side > 1)


def overlapping(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Find tensors that share entries in memory.

    Views of one memory that have no entry in common, such as the halves of a matrix, do not overlap.

    Args:
        tensors: of any shapes and devices; of sharded ones, this rank's shard is compared.

    Returns:
        The pairs of overlapping tensors by their indices, each pair ascending.
    """
    spans = sorted((*span, index) for index, tensor in enumerate(tensors) if (span := _span(tensor)) is not None)
    pairs: list[tuple[int, int]] = []
    open_spans: list[tuple[tuple[str, int], int]] = []
    for device, first, last, index in spans:
        open_spans = [(end, other) for end, other in open_spans if end > (device, first)]
        pairs += [
            (min(index, other), max(index, other))
            for _, other in open_spans
            if _share_entries(local_shard(tensors[other]), local_shard(tensors[index]))
        ]
        open_spans.append(((device, last), index))
    return sorted(pairs)


def _span(tensor: Tensor) -> tuple[str, int, int] | None:
    """Return the device, the first address, and the address after the last one; None for a tensor without memory."""
    tensor = local_shard(tensor)
    if tensor.numel() == 0 or not has_memory(tensor):
        return None
    first = tensor.data_ptr()
    return (str(tensor.device), first, first + _extent(tensor) * tensor.element_size()) if first else None


def _extent(tensor: Tensor) -> int:
    """Return the number of entries of memory from the first to the last entry of a tensor, both included."""
    return 1 + sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _share_entries(first: Tensor, last: Tensor) -> bool:
    """Return whether two tensors whose memory is interleaved share entries; ``first`` begins at the lower address."""
    size = first.element_size()
    apart = last.data_ptr() - first.data_ptr()
    if last.element_size() != size or apart % size:
        return True
    marks = torch.zeros(max(_extent(first), apart // size + _extent(last)), dtype=torch.bool)
    # a side along which all entries are one is marked once
    sides = [1 if stride == 0 else side for side, stride in zip(first.shape, first.stride(), strict=True)]
    marks.as_strided(sides, first.stride()).fill_(True)
    return bool(marks.as_strided(last.shape, last.stride(), apart // size).any())
