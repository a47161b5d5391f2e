"""Saved-tensor hooks that keep dense weights out of what autograd saves: they are made again in the backward pass."""

import threading
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from sparsecore_torch._torch_internals.autograd import SavedTensorHooks, innermost_saved_tensor_hooks
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.tensors import storage_identity, write_count

Remake = Callable[[], Tensor]
"""Makes a dense weight again."""

_weakly: Callable[[torch.UntypedStorage], Any] = StorageWeakRef


class SavedTensors:
    """Recognises dense weights, and views of them, among what autograd saves while the hooks are installed."""

    def __init__(self) -> None:
        # by the identity of the storage; while there is a weak reference to a storage, no other gets its identity
        self._weights: dict[int, _DenseWeight] = {}
        self._installed = _Installed()

    def remade_by(self, remake: Remake, dense: Tensor) -> Tensor:
        """Register a dense weight that is to be made again in the backward pass instead of being kept.

        Args:
            remake: makes it again.
            dense: the dense weight.

        Returns:
            The dense weight itself.
        """
        if dense.requires_grad:
            self._weights = {
                address: weight
                for address, weight in list(self._weights.items())  # other threads may add to it
                if not weight.storage.expired()
            }
            storage = _weakly(dense.untyped_storage())
            self._weights[storage.cdata] = _DenseWeight(storage, remake, write_count(dense))
        return dense

    def install(self) -> None:
        """Install the saved-tensor hooks."""
        self.remove()  # an interrupt, which is no Exception, may have left them installed
        # only the innermost hooks are called: those of a checkpoint around the model get what is none of its weights
        self._installed.outer = innermost_saved_tensor_hooks()
        hooks = saved_tensors_hooks(untraced(self._pack), untraced(_unpack))
        hooks.__enter__()
        self._installed.hooks.append(hooks)

    def remove(self) -> None:
        """Remove the saved-tensor hooks."""
        while self._installed.hooks:
            self._installed.hooks.pop().__exit__()

    def _pack(self, tensor: Tensor) -> "_Kept | _Dropped | _Packed":
        if tensor.layout is not torch.strided:  # it has no storage of its own to be known by
            return self._keep(tensor)
        weight = self._weights.get(storage_identity(tensor))
        if weight is None or weight.version != write_count(tensor):
            return self._keep(tensor)
        return _Dropped(weight.remake, tensor.size(), tensor.stride(), tensor.storage_offset())

    def _keep(self, tensor: Tensor) -> "_Kept | _Packed":
        if self._installed.outer is None:
            return _Kept(tensor.detach(), write_count(tensor))
        pack, unpack = self._installed.outer
        return _Packed(pack(tensor.detach()), unpack)


class _Installed(threading.local):
    """The hooks in this thread: torch keeps those of each thread by themselves.

    Attributes:
        hooks: those that are installed.
        outer: those around the model.
    """

    def __init__(self) -> None:
        self.hooks: list[saved_tensors_hooks] = []
        self.outer: SavedTensorHooks | None = None


@attrs.frozen(eq=False)
class _DenseWeight:
    """A dense weight that may still exist. Once it is changed in place, it is treated as any other tensor."""

    storage: Any
    remake: Remake
    version: int


@attrs.frozen(eq=False)
class _Kept:
    """Any other tensor. It is detached, since the output of an operation would otherwise keep itself alive."""

    tensor: Tensor
    version: int

    def __call__(self) -> Tensor:
        # autograd leaves this check to those who install saved-tensor hooks
        if write_count(self.tensor) != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"a tensor of shape {tuple(self.tensor.shape)} is at version {write_count(self.tensor)}; "
                f"expected version {self.version} instead"
            )
        return self.tensor


@attrs.frozen(eq=False)
class _Packed:
    """Any other tensor, as hooks around the model have packed it."""

    packed: Any
    unpack: Callable[[Any], Tensor]

    def __call__(self) -> Tensor:
        return self.unpack(self.packed)


@attrs.frozen(eq=False)
class _Dropped:
    """A dense weight that is not kept, or a view of it."""

    remake: Remake
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt

    def __call__(self) -> Tensor:
        return self.remake().as_strided(self.size, self.stride, self.offset)


def _unpack(packed: Any) -> Tensor:
    tensor: Tensor = packed()
    return tensor
