"""Images as a network takes them: uint8 on the device, augmented there as the engine's plan says."""

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecore.data.images import Batch, Images, Split, check_padding
from sparsecore_torch.experiment.device import Machine

_PIXELS = 1 << 18
_MOST_IMAGES = 1 << 10


@attrs.frozen(eq=False)
class Pictures:
    """A split on the device: uint8 images (examples, height, width, channels) and int64 labels."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, split: Split, device: torch.device) -> "Pictures":
        """The split on the device; on the host it shares the split's memory where that may be."""
        return cls(_tensor(split.images).to(device), _tensor(split.labels).to(device))

    def batch(self, plan: Batch) -> tuple[Tensor, Tensor]:
        """The images of a batch, cropped and mirrored as it plans, and their labels."""
        rows, shifts, flips = _uploaded(plan, self.images.device)
        labels = self.labels.index_select(0, rows)
        if plan.padding == 0 and not plan.flips.any():
            return self.images.index_select(0, rows), labels
        return augmented(self.images, rows, shifts, flips, plan.padding), labels

    def in_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All in order, as many images at a time as have a bounded number of pixels."""
        height, width = self.images.shape[1:3]
        count = min(max(1, _PIXELS // (height * width)), _MOST_IMAGES)
        return zip(torch.split(self.images, count), torch.split(self.labels, count), strict=True)


class Inputs:
    """A data set on the device, normalized for the network."""

    def __init__(self, images: Images, machine: Machine) -> None:
        self._machine = machine
        self._splits = [(split, Pictures.of(split, machine.device)) for split in (images.train, images.test)]
        self._mean, self._std = (
            torch.as_tensor(moment, dtype=machine.dtype, device=machine.device) for moment in (images.mean, images.std)
        )

    def of_plan(self, plan: Batch) -> tuple[Tensor, Tensor]:
        """The training images of a batch, and their labels."""
        images, labels = self._splits[0][1].batch(plan)
        return self._normalized(images), labels

    def of_split(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """A split in order, some images at a time, and their labels; on each rank its share of them."""
        for images, labels in self._machine.sharing.some(self._on_device(split).in_batches()):
            yield self._normalized(images), labels

    def _on_device(self, split: Split) -> Pictures:
        there = (pictures for known, pictures in self._splits if known is split)
        return next(there, None) or Pictures.of(split, self._machine.device)

    def _normalized(self, images: Tensor) -> Tensor:
        """(images − mean)/std as (batch, channels, height, width)."""
        normalized = images.to(self._machine.dtype).sub_(self._mean).div_(self._std)
        return normalized.permute(0, 3, 1, 2).contiguous(memory_format=self._machine.memory_format)


def augmented(images: Tensor, rows: Tensor, shifts: Tensor, flips: Tensor, padding: int) -> Tensor:
    """What :func:`sparsecore.data.images.augmented` does, as one gather on the device.

    Args:
        images: uint8, (examples, height, width, channels).
        rows: which of them, int64, (batch,).
        shifts: row and column of each crop's corner in the padded image, int64, (batch, 2).
        flips: which crops are mirrored, (batch,).
        padding: pixels reflected at each side.
    """
    height, width, channels = images.shape[1:]
    check_padding(padding, height, width)
    lines = _reflected(shifts[:, 0], padding, height)
    columns = _reflected(shifts[:, 1], padding, width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    pixels = ((rows[:, None] * height + lines) * width)[:, :, None] + columns[:, None, :]
    crops = images.reshape(-1, channels).index_select(0, pixels.view(-1))
    return crops.view(len(rows), height, width, channels)


def _reflected(corners: Tensor, padding: int, side: int) -> Tensor:
    lines = corners[:, None] + torch.arange(-padding, side - padding, device=corners.device)
    return (side - 1) - ((side - 1) - lines.abs()).abs()


def _uploaded(plan: Batch, device: torch.device) -> Sequence[Tensor]:
    """Rows, shifts and flips on the device, in one transfer that nobody waits for."""
    host = torch.from_numpy(np.column_stack([plan.rows, plan.shifts, plan.flips]).astype(np.int64, copy=False))
    if device.type == "cuda":
        host = host.pin_memory()
    there = host.to(device, non_blocking=True)
    return there[:, 0].contiguous(), there[:, 1:3], there[:, 3] != 0


def _tensor(array: NDArray[np.generic]) -> Tensor:
    # torch warns of arrays that are not to be written to
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
