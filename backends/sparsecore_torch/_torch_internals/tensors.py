"""Tensors, their memory, and operations on them."""

from collections.abc import Callable
from operator import attrgetter
from typing import Final

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["is_traceable_wrapper_subclass", "tree_leaves", "tree_map_only"]

write_count: Final[Callable[[Tensor], int]] = attrgetter("_version")
"""How often a tensor's memory has been written to. Not counted are writes through ``.data`` and by other libraries."""


def coo_parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices and the values of a sparse COO tensor, whether it is coalesced or not.

    Args:
        tensor: of the layout ``torch.sparse_coo``.

    Returns:
        Indices, int64, (sparse dimensions, entries), and values, (entries, dense dimensions...). Of a tensor that is
        not coalesced an index may occur several times.
    """
    return tensor._indices(), tensor._values()


def storage_identity(tensor: Tensor) -> int:
    """Return a number that all tensors on the same memory have in common; that of ``StorageWeakRef.cdata``.

    Args:
        tensor: a strided tensor; sparse ones have no storage of their own.
    """
    identity: int = tensor.untyped_storage()._cdata
    return identity


def storage_of_weak_reference(identity: int) -> torch.UntypedStorage | None:
    """Return the storage that a ``StorageWeakRef`` refers to.

    Args:
        identity: the ``cdata`` of a reference that still exists.

    Returns:
        None where the storage no longer exists.
    """
    storage: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(identity)
    return storage


def is_fake(tensor: Tensor) -> bool:
    """Return whether a tensor has no data and stands for one while a model is traced."""
    return isinstance(tensor, FakeTensor)


COPYING_OPERATIONS: Final = (torch.ops.aten.clone, torch.ops.aten._to_copy)
"""The operations by which a tensor becomes contiguous, or gets another dtype."""

RAW_FORMULA: Final = "_get_raw"
"""The attribute of a formula by which ``torch.utils.flop_counter`` hands it tensors in place of their shapes."""
