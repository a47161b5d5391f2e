"""Nonzero weights that are not active: something other than the training has written them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.shared_memory import has_memory
from sparsecore_torch.storages.bit_mask import BitMask

_SHOWN = 5


@final
class ForeignWrites:
    """Finds what was written into inactive positions, such as the weights of another topology.

    torch counts the writes into each tensor, so that a tensor that only the training has written to is not looked at.
    Writes through ``.data`` are not counted; they are found where all tensors are looked at.

    Args:
        tensors: gives the dense tensors, or this rank's shards of them, by name.
        masks: the mask of each.
    """

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]], masks: Mapping[str, BitMask]) -> None:
        self._tensors = tensors
        self._masks = masks
        self._address = {name: _address_of(tensor) for name, tensor in tensors().items()}
        self._known: dict[str, tuple[int, int]] = {}

    def note(self, names: Iterable[str]) -> None:
        """The tensors of these names, as they are now, have been written by the training."""
        self._known.update(self._stamps(names))

    def forget(self) -> None:
        """All tensors count as changed from now on."""
        self._known = {}

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of the tensors that have been written to since :meth:`note`, as far as torch counts."""
        return [name for name, stamp in self._stamps(names).items() if self._known.get(name) != stamp]

    @torch.no_grad()
    def check(self, names: Sequence[str]) -> None:
        """Raise an :class:`InputError` if weights of these tensors are nonzero and not active."""
        if not names:
            return
        tensors = self._tensors()
        counts = torch.stack([_strangers(tensors[name], self._masks[name]) for name in names]).tolist()
        strange = {name: count for name, count in zip(names, counts, strict=True) if count}
        if strange:
            raise InputError(_sentence(strange))
        self.note(names)

    def _stamps(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """What changes when torch writes into a tensor, or gives it other memory."""
        tensors = self._tensors()
        return {name: (tensors[name]._version, self._address[name](tensors[name])) for name in names}


def _address_of(tensor: Tensor) -> Callable[[Tensor], int]:
    """What tells the address of a tensor's memory, or of one like it; 0 where it has none of its own."""
    return Tensor.data_ptr if has_memory(tensor) else lambda _: 0


def _strangers(tensor: Tensor, mask: BitMask) -> Tensor:
    """How many inactive entries are not zero."""
    return (tensor.detach() != 0).logical_and_(mask.active.logical_not_()).sum()


def _sentence(strange: Mapping[str, int]) -> str:
    names = ", ".join(list(strange)[:_SHOWN]) + (" and others" if len(strange) > _SHOWN else "")
    return (
        f"{sum(strange.values())} weights of {names} are nonzero and not active: something other than the training has "
        "written them, as loading weights of another moment does. training.adopt() makes the model's nonzero weights "
        "the active ones; training.load_state_dict() takes up the topology that was saved with them; "
        "training.mask_(model) makes all inactive weights zero"
    )
