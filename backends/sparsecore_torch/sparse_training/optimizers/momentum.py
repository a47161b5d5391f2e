"""The momentum that SGD keeps of each weight: strategies read it, and choose it for weights that have grown."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.engine.reallocation import Reallocation
from sparsecore_torch.arrays import active_indices, as_tensor, put_entries, scatter
from sparsecore_torch.sparse_training.optimizers.state import group_of
from sparsecore_torch.tensors import local_shard, shard_like


def momentum_buffer(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    """Return M of M ← momentum·M + gradient + weight_decay·w, which SGD keeps of a parameter.

    Args:
        optimizer: the one that takes the step.
        parameter: trained by it.

    Returns:
        In the parameter's shape, not copied. None where there is no such state: with other optimizers, without
        momentum, with dampening, where the objective is maximized, and before the first step.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    options = optimizer.param_groups[group_of(optimizer, parameter)]
    if not options["momentum"] or options["dampening"] or options["maximize"]:
        return None
    buffer: Tensor | None = optimizer.state.get(parameter, {}).get("momentum_buffer")
    return buffer


def start_momentum(optimizer: Optimizer, name: str, parameter: Tensor, reallocation: Reallocation) -> None:
    """Give the weights of a tensor that have grown the momentum that the strategies chose.

    Args:
        optimizer: the one that takes the step.
        name: of the tensor.
        parameter: the tensor, dense, whose grown weights have the state of new ones.
        reallocation: what has grown, with its momentum.
    """
    buffer = momentum_buffer(optimizer, parameter)
    if buffer is None or reallocation.momentum is None:
        return
    grown = reallocation.grown_weights
    entries = as_tensor(reallocation.momentum)[grown.slots(name)]
    put_entries(buffer, active_indices(grown, grown.layout.index(name)), entries)


def start_momentum_of_shards(optimizer: Optimizer, name: str, parameter: Tensor, reallocation: Reallocation) -> None:
    """Do as :func:`start_momentum` for a tensor that is sharded over ranks.

    Args:
        optimizer: as there.
        name: as there.
        parameter: the sharded tensor.
        reallocation: as there.
    """
    buffer = momentum_buffer(optimizer, parameter)
    if buffer is None or reallocation.momentum is None:
        return
    grown, shard = reallocation.grown_weights, local_shard(buffer)
    indices = active_indices(grown, grown.layout.index(name))
    entries = as_tensor(reallocation.momentum)[grown.slots(name)].to(shard.dtype)
    is_grown = shard_like(scatter(torch.ones_like(entries), indices, parameter.shape), parameter) != 0
    shard.copy_(torch.where(is_grown, shard_like(scatter(entries, indices, parameter.shape), parameter), shard))
