"""Images in memory, and a batch of them as a plan."""

from functools import cached_property

import attrs
import numpy as np
from numpy.typing import NDArray


@attrs.frozen(eq=False)
class Split:
    """Images with labels.

    Attributes:
        images: uint8, (examples, height, width, channels).
        labels: int64, (examples,), 0 to classes-1.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@attrs.frozen(eq=False)
class Images:
    """A data set: training and test images and the number of classes."""

    train: Split
    test: Split
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """The mean of each channel over the training images, in units of 0..255."""
        return self._moments[0]

    @cached_property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of each channel over the training images; 1 where a channel is constant."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        counts = _histograms(self.train.images)
        levels = np.arange(256.0)
        pixels = counts.sum(axis=1)
        mean = counts @ levels / pixels
        # about the mean, not E[x²] - mean², which cancels where a channel hardly varies
        variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / pixels
        return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


def _histograms(images: NDArray[np.uint8], chunk: int = 1024) -> NDArray[np.int64]:
    """How often each channel has each of the 256 levels; (channels, 256).

    Exact, and never holds the images as floats. ``bincount`` makes eight bytes of each pixel, so it is given
    ``chunk`` images at a time.
    """
    counts = np.zeros((images.shape[3], 256), np.int64)
    for start in range(0, len(images), chunk):
        for channel in range(len(counts)):
            counts[channel] += np.bincount(images[start : start + chunk, ..., channel].ravel(), minlength=256)
    return counts


@attrs.frozen(eq=False)
class Batch:
    """Which training images a step takes, and how each is augmented.

    Attributes:
        rows: indices into the training split, int64.
        shifts: (rows, 2) int64, row and column in 0..2·padding of the crop's corner in the padded image.
        flips: bool, whether the crop is mirrored left to right.
        padding: how many pixels are reflected at each side before the crop; with 0 there are no shifts to apply.
    """

    rows: NDArray[np.int64]
    shifts: NDArray[np.int64]
    flips: NDArray[np.bool_]
    padding: int

    def __len__(self) -> int:
        return len(self.rows)
