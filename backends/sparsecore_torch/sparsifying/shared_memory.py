"""Parameters that lie in the same memory: what one optimizer step writes into the one, it writes into the other."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.parameters import NamedParameter
from sparsecore_torch.storages.shards import local


def check_memory(sparse: Sequence[NamedParameter], others: Sequence[NamedParameter], optimizer: Optimizer) -> None:
    """Raise an :class:`InputError` if a sparse tensor shares memory with another parameter.

    Args:
        sparse: the tensors that are to be sparse.
        others: all parameters of the model.
        optimizer: what it trains is looked at, too, though it may belong to no module.
    """
    known = {id(one.parameter): one.name for one in others}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors = list({id(one): one for one in [*(one.parameter for one in others), *trained]}.values())
    names = [known.get(id(one), "a parameter of the optimizer that the model does not have") for one in tensors]
    chosen = {id(one.parameter) for one in sparse}
    for first, last in overlapping(tensors):
        if id(tensors[first]) in chosen or id(tensors[last]) in chosen:
            raise InputError(
                f"{names[first]} and {names[last]} are views of the same memory, and what one loses the other would "
                "lose; make them one Parameter, which both modules hold, or leave both dense with exclude="
            )


def overlapping(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The pairs of different tensors that have entries in common, by their indices, each pair ascending.

    Views of one memory that have no entry in common, such as the halves of a matrix, are no such pair.
    """
    spans = sorted((*span, index) for index, tensor in enumerate(tensors) if (span := _span(tensor)) is not None)
    pairs: list[tuple[int, int]] = []
    open_spans: list[tuple[tuple[str, int], int]] = []
    for device, first, last, index in spans:
        open_spans = [(end, other) for end, other in open_spans if end > (device, first)]
        pairs += [
            (min(index, other), max(index, other))
            for _, other in open_spans
            if _have_entries_in_common(local(tensors[other]), local(tensors[index]))
        ]
        open_spans.append(((device, last), index))
    return sorted(pairs)


def has_memory(tensor: Tensor) -> bool:
    """Whether the entries lie at addresses of their own: not those of the device 'meta', nor those of wrappers."""
    return tensor.layout is torch.strided and not tensor.is_meta and not is_traceable_wrapper_subclass(tensor)


def _span(tensor: Tensor) -> tuple[str, int, int] | None:
    """Device and addresses from the first to behind the last byte; None where there is no memory to look at."""
    tensor = local(tensor)
    if tensor.numel() == 0 or not has_memory(tensor):
        return None
    first = tensor.data_ptr()
    return (str(tensor.device), first, first + _extent(tensor) * tensor.element_size()) if first else None


def _extent(tensor: Tensor) -> int:
    """Entries of memory from the first to the last one."""
    return 1 + sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _have_entries_in_common(first: Tensor, last: Tensor) -> bool:
    """Whether two tensors whose memory is interleaved share entries; ``first`` begins at the lower address."""
    size = first.element_size()
    apart = last.data_ptr() - first.data_ptr()
    if last.element_size() != size or apart % size:
        return True
    marks = torch.zeros(max(_extent(first), apart // size + _extent(last)), dtype=torch.bool)
    # a side along which all entries are one is marked once
    sides = [1 if stride == 0 else side for side, stride in zip(first.shape, first.stride(), strict=True)]
    marks.as_strided(sides, first.stride()).fill_(True)
    return bool(marks.as_strided(last.shape, last.stride(), apart // size).any())
