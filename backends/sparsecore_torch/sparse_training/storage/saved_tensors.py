"""What autograd saves for the backward pass: a dense weight is let go and made again, anything else is kept."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from sparsecore_torch._torch_internals import storage_identity, write_count

Remake = Callable[[], Tensor]
_weakly: Callable[[torch.UntypedStorage], Any] = StorageWeakRef


class SavedTensors:
    """Recognises dense weights, and views of them, among what autograd saves while it is entered."""

    def __init__(self) -> None:
        # by the address of the storage; while there is a weak reference to a storage, no other gets its address
        self._living: dict[int, _Living] = {}
        self._hooks: list[saved_tensors_hooks] = []

    def remade_by(self, remake: Remake, dense: Tensor) -> Tensor:
        """The dense tensor itself, which will not be kept for the backward pass, but made again by ``remake``."""
        if dense.requires_grad:
            self._living = {address: living for address, living in self._living.items() if not living.storage.expired()}
            storage = _weakly(dense.untyped_storage())
            self._living[storage.cdata] = _Living(storage, remake, write_count(dense))
        return dense

    def enter(self) -> None:
        """From here on, what is saved passes through here."""
        self.leave()  # an interrupt (no Exception) may have left us entered
        disable: Any = torch.compiler.disable
        hooks = saved_tensors_hooks(disable(self._pack), disable(_unpack))
        hooks.__enter__()
        self._hooks.append(hooks)

    def leave(self) -> None:
        """Up to here."""
        while self._hooks:
            self._hooks.pop().__exit__()

    def _pack(self, tensor: Tensor) -> "_Kept | _LetGo":
        if tensor.layout is not torch.strided:  # it has no storage of its own to be known by
            return _Kept(tensor.detach(), write_count(tensor))
        living = self._living.get(storage_identity(tensor))
        if living is None or living.version != write_count(tensor):
            return _Kept(tensor.detach(), write_count(tensor))
        return _LetGo(living.remake, tensor.size(), tensor.stride(), tensor.storage_offset())


@attrs.frozen(eq=False)
class _Living:
    """A dense weight that may still be in use. Where it is changed in place, it is a weight no more."""

    storage: Any
    remake: Remake
    version: int


@attrs.frozen(eq=False)
class _Kept:
    """Any other tensor. Detached, as one that an operation returned would otherwise hold itself for ever."""

    tensor: Tensor
    version: int

    def __call__(self) -> Tensor:
        # autograd leaves this check to whoever has hooks on saved tensors
        if write_count(self.tensor) != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"a tensor of shape {tuple(self.tensor.shape)} is at version {write_count(self.tensor)}; "
                f"expected version {self.version} instead"
            )
        return self.tensor


@attrs.frozen(eq=False)
class _LetGo:
    """A dense weight, or a view of it."""

    remake: Remake
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt

    def __call__(self) -> Tensor:
        return self.remake().as_strided(self.size, self.stride, self.offset)


def _unpack(packed: Any) -> Tensor:
    tensor: Tensor = packed()
    return tensor
