"""Images on the device as uint8, augmented there as the engine plans, and normalized for the network."""

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecore.data.images import Batch, Images, Split, check_padding
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.streams import StreamedImages, StreamedInputs

_PIXELS = 1 << 18
"""At most so many pixels are evaluated at a time."""

_MOST_IMAGES = 1 << 10
"""At most so many images are evaluated at a time."""


@attrs.frozen(eq=False)
class DeviceSplit:
    """A split on the device.

    Attributes:
        images: uint8, (examples, height, width, channels).
        labels: int64, (examples,).
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, split: Split, device: torch.device) -> "DeviceSplit":
        """Put a split on a device.

        Args:
            split: images uint8 (examples, height, width, channels), and labels.
            device: where they are put; on the host the split's memory is shared where it is writable and contiguous.
        """
        return cls(_as_tensor(split.images).to(device), _as_tensor(split.labels).to(device))

    def batch(self, plan: Batch) -> tuple[Tensor, Tensor]:
        """Return the images of a batch, cropped and mirrored as planned, and their labels.

        Args:
            plan: which images, and how they are augmented.

        Returns:
            Images, uint8, (batch, height, width, channels), and labels, int64, (batch,).

        Raises:
            InputError: the padding is too large to be reflected in images of this size.
        """
        rows, shifts, flips = _uploaded(plan, self.images.device)
        labels = self.labels.index_select(0, rows)
        if plan.padding == 0 and not plan.flips.any():
            return self.images.index_select(0, rows), labels
        return augmented(self.images, rows, shifts, flips, plan.padding), labels

    def in_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over all images and labels in order.

        Returns:
            Images, uint8, (batch, height, width, channels), and labels, (batch,), views of the split; at most 2¹⁸
            pixels or 2¹⁰ images at a time, but at least one image.
        """
        height, width = self.images.shape[1:3]
        count = min(max(1, _PIXELS // (height * width)), _MOST_IMAGES)
        return zip(torch.split(self.images, count), torch.split(self.labels, count), strict=True)


class DeviceImages:
    """A data set on the device.

    Args:
        images: the data set.
        config: the device, and the dtype and memory format of images for the network.
    """

    def __init__(self, images: Images, config: DeviceConfig) -> None:
        self._config = config
        self._splits = [(split, DeviceSplit.of(split, config.device)) for split in (images.train, images.test)]
        self._mean, self._std = (
            torch.as_tensor(moment, dtype=config.dtype, device=config.device) for moment in (images.mean, images.std)
        )

    def of_plan(self, plan: Batch) -> tuple[Tensor, Tensor]:
        """Return the normalized training images of a batch and their labels.

        Args:
            plan: which images, and how they are augmented.

        Returns:
            Images, (batch, channels, height, width), in the dtype and memory format of the config, and labels, int64,
            (batch,).
        """
        images, labels = self._splits[0][1].batch(plan)
        return self._normalized(images), labels

    def upcoming(self, plan: Iterator[Batch]) -> Iterator[Batch]:
        """Return the batches of a plan as they are: all images are on the device."""
        return plan

    def of_split(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over this rank's share of a split in batches.

        Args:
            split: one of the data set's, which is on the device already, or another one, which is copied there at each
                call.

        Yields:
            Normalized images, (batch, channels, height, width), and labels, int64, (batch,).
        """
        for images, labels in self._config.parallel.some(self._on_device(split).in_batches()):
            yield self._normalized(images), labels

    def _on_device(self, split: Split) -> DeviceSplit:
        known = (on_device for own, on_device in self._splits if own is split)
        return next(known, None) or DeviceSplit.of(split, self._config.device)

    def _normalized(self, images: Tensor) -> Tensor:
        normalized = images.to(self._config.dtype).sub_(self._mean).div_(self._std)
        return normalized.permute(0, 3, 1, 2).contiguous(memory_format=self._config.memory_format)


def inputs_of(images: Images | StreamedImages, config: DeviceConfig) -> DeviceImages | StreamedInputs:
    """Return what gives a learner its images.

    Args:
        images: the data set, in memory or not.
        config: the device, and the dtype and memory format of images for the network.
    """
    return StreamedInputs(images, config) if isinstance(images, StreamedImages) else DeviceImages(images, config)


def augmented(images: Tensor, rows: Tensor, shifts: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Crop and mirror images as :func:`sparsecore.data.images.augmented` does, as one gather on the device.

    Args:
        images: uint8, (examples, height, width, channels).
        rows: the indices of the images to take, int64, (batch,).
        shifts: row and column of each crop's corner in the padded image, int64, (batch, 2).
        flips: which crops are mirrored, bool, (batch,).
        padding: pixels reflected at each side.

    Returns:
        uint8, (batch, height, width, channels).
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
    """Rows, shifts and flips on the device, in one transfer that the host does not wait for."""
    host = torch.from_numpy(np.column_stack([plan.rows, plan.shifts, plan.flips]).astype(np.int64, copy=False))
    if device.type == "cuda":
        host = host.pin_memory()
    uploaded = host.to(device, non_blocking=True)
    return uploaded[:, 0].contiguous(), uploaded[:, 1:3], uploaded[:, 3] != 0


def _as_tensor(array: NDArray[np.generic]) -> Tensor:
    # torch warns of arrays that are read-only
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
