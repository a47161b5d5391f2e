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
        # a histogram of 256 values is exact and never holds the images as floats
        channels = self.train.images.shape[3]
        counts = np.stack([np.bincount(self.train.images[..., c].ravel(), minlength=256) for c in range(channels)])
        levels = np.arange(256.0)
        mean = counts @ levels / counts.sum(axis=1)
        std = np.sqrt(counts @ levels**2 / counts.sum(axis=1) - mean**2)
        return mean, np.where(std > 1e-6, std, 1.0)


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
