"""Averages of sparse weights (EMA, SWA): masked by the training's topology, or kept sparse at each update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.modules import COMPILED_MODULE
from sparsecore_torch.tensors import local_shard, shard_like

Average = Callable[[Tensor, Tensor, Tensor | int], Tensor]
"""From the average, the model's tensor and the number of averaged models to the new average (``swa_utils``)."""


def sparse_avg_fn(avg_fn: Average) -> Average:
    """Return an ``avg_fn`` of torch that keeps the average sparse where the model is.

    A plain average keeps a rest of every weight that has ever been active, up to ten times as many as are active now,
    and mixes weights that have grown late with the zeros before. Here an entry that is zero in the model is zero in the
    average, and one that is zero in the average starts with the model's value::

        AveragedModel(model, avg_fn=sparse_avg_fn(get_ema_avg_fn(0.999)))

    Args:
        avg_fn: such as ``torch.optim.swa_utils.get_ema_avg_fn(0.999)`` or ``get_swa_avg_fn()``.

    Returns:
        A function with the same arguments.
    """

    @torch.no_grad()
    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        dense = avg_fn(averaged, current, count)
        started = torch.where(averaged == 0, current.to(dense.dtype), dense)
        return torch.where(current == 0, torch.zeros_like(started), started)

    return average


def keep_average_sparse(averaged: AveragedModel) -> None:
    """Let an ``AveragedModel`` keep its average sparse where the model is, as :func:`sparse_avg_fn` does.

    Args:
        averaged: its functions are replaced by ones that compute with them.
    """
    if averaged.multi_avg_fn is not None:
        averaged.multi_avg_fn = _sparse_multi_avg_fn(averaged.multi_avg_fn)
    else:
        mean: Callable[[], Average] = get_swa_avg_fn
        averaged.avg_fn = sparse_avg_fn(averaged.avg_fn or mean())


def _sparse_multi_avg_fn(multi_avg_fn: Callable[..., Any]) -> Callable[..., None]:
    @torch.no_grad()
    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        starting = [one == 0 for one in averaged]
        multi_avg_fn(averaged, current, count)
        for one, now, starts in zip(averaged, current, starting, strict=True):
            one.copy_(torch.where(starts, now.to(one.dtype), one).masked_fill_(now == 0, 0))

    return average


@torch.no_grad()
def mask_(topology: Topology, target: nn.Module | Mapping[str, Tensor]) -> None:
    """Set the inactive entries of a model's tensors to zero, in place.

    Args:
        topology: the active positions.
        target: a module, perhaps around or a copy of the model, or tensors by the names of the model's parameters.

    Raises:
        InputError: a tensor is missing, several have its name, or it has another shape; nothing has changed.
    """
    found = _found(_tensors(target), topology)
    for name, tensor in found.items():
        shape = topology.layout.shapes[topology.layout.index(name)]
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name} has the shape {tuple(tensor.shape)}; the training's is {shape}")
    for name, tensor in found.items():
        inactive = ~torch.from_numpy(topology.mask(name)).to(tensor.device)
        local_shard(tensor).masked_fill_(shard_like(inactive, tensor), 0.0)


def _tensors(target: Any) -> Mapping[str, Tensor]:
    if isinstance(target, nn.Module):
        return dict(target.named_parameters(remove_duplicate=False))
    if isinstance(target, Mapping):
        return {str(name): tensor for name, tensor in target.items() if isinstance(tensor, Tensor)}
    raise InputError(f"what is to be masked is a module, or tensors by name; given {type(target).__name__}")


def _found(tensors: Mapping[str, Tensor], topology: Topology) -> dict[str, Tensor]:
    """Return the model's sparse tensors among these, whose names may all have a prefix (``module.``)."""
    names = {name.replace(f"{COMPILED_MODULE}.", ""): tensor for name, tensor in tensors.items()}
    first, *others = topology.layout.names
    prefixes = [name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")]
    complete = [prefix for prefix in prefixes if all(prefix + name in names for name in others)]
    if not complete:
        missing = [name for name in (first, *others) if not any(prefix + name in names for prefix in prefixes or [""])]
        raise InputError(
            f"there is no tensor of the name {(missing or [first])[0]} to be masked; the names are those of the model "
            "that was made sparse, with masks, or all of them with a prefix"
        )
    if len(complete) > 1:
        raise InputError(
            f"the sparse tensors are there {len(complete)} times, under {', '.join(repr(one) for one in complete)}; "
            "give the part that is to be masked"
        )
    return {name: names[complete[0] + name] for name in topology.layout.names}
