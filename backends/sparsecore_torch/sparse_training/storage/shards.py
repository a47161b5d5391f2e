"""Tensors that may be spread over ranks: the whole of them, and this rank's shard."""

import sys
from typing import Any

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as ``fully_shard`` makes them."""
    # nobody has made one without this module, which takes half a second to import
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the shards of all ranks, which all have to ask for it."""
    sharded: Any = tensor.detach()
    dense: Tensor = sharded.full_tensor() if is_sharded(sharded) else sharded
    return dense


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, which shares the tensor's memory."""
    sharded: Any = tensor.detach()
    shard: Tensor = sharded.to_local() if is_sharded(sharded) else sharded
    return shard


def shard_of(dense: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a tensor that every rank has, spread as another is; nobody communicates."""
    if not is_sharded(like):
        return dense
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return local(distribute_tensor(dense, sharded.device_mesh, sharded.placements, src_data_rank=None))
