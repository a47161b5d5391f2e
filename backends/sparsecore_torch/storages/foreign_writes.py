"""Nonzero weights that are not active: something other than the training has written them."""

from collections.abc import Callable, Mapping
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

    def note(self) -> None:
        """The tensors as they are now have been written by the training."""
        self._known = self._stamps(self._tensors())

    def forget(self) -> None:
        """Look at all tensors in the next check."""
        self._known = {}

    @torch.no_grad()
    def check(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Raise an :class:`InputError` if weights that are not active are nonzero; nothing has changed then.

        Args:
            name: the tensor to look at; all where it is None.
            thoroughly: whether tensors are looked at that have not been written to as far as torch knows.
        """
        tensors = self._tensors() if name is None else {name: self._tensors()[name]}
        stamps = self._stamps(tensors)
        if not thoroughly and stamps == self._known:
            return
        written = [one for one in tensors if thoroughly or self._known.get(one) != stamps[one]]
        if not written:
            return
        counts = torch.stack([_strangers(tensors[one], self._masks[one]) for one in written]).tolist()
        strange = {one: count for one, count in zip(written, counts, strict=True) if count}
        if strange:
            raise InputError(_sentence(strange))
        self._known.update(stamps)

    def _stamps(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
        """What changes when torch writes into a tensor, or gives it other memory."""
        return {name: (one._version, self._address[name](one)) for name, one in tensors.items()}


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
