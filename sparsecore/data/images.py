"""Data sets in memory, the plan of a batch, and its augmentation."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError


@attrs.frozen(eq=False)
class Split:
    """Images with labels.

    Attributes:
        images: uint8, (examples, height, width, channels).
        labels: int64, (examples,), 0 to classes-1; (examples, length) of :class:`sparsecore.data.tokens.Tokens`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: NDArray[np.integer]) -> "Split":
        """Return copies of some of the examples.

        Args:
            rows: their indices, in any order.
        """
        return Split(self.images[rows], self.labels[rows])

    def identify(self, update: Callable[[Any], object]) -> None:
        """Feed what identifies the examples into a digest.

        Args:
            update: the digest's method, which takes bytes.
        """
        update(str(self.images.shape).encode())
        update(np.ascontiguousarray(self.images).data)
        update(np.ascontiguousarray(self.labels).data)


@attrs.frozen(eq=False)
class Images:
    """A data set in memory.

    Another class that has splits with ``len``, ``at`` and ``identify``, and the attributes and methods here but for the
    moments, can stand in its place where the backend reads its images.

    Attributes:
        train: the training images.
        test: the test images, of the same height, width and channels.
        classes: the number of classes.
    """

    train: Split
    test: Split
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def tested(self, split: Split) -> Split:
        """Return training images as they are evaluated, where they are held out: here, as they are.

        Args:
            split: some of the training images.
        """
        return split

    def check_augmentation(self, padding: int, flip: bool) -> None:  # noqa: ARG002
        """Check that the training images can be augmented so.

        Args:
            padding: pixels that are reflected at each side before a random crop.
            flip: whether images are mirrored at random.

        Raises:
            InputError: the padding is not smaller than both sides, so that a reflection cannot fill it.
        """
        check_padding(padding, self.shape[0], self.shape[1])

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """The mean of each channel over the training images, in units of 0..255, (channels,)."""
        return self._moments[0]

    @cached_property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of each channel over the training images, (channels,); 1 for a constant channel."""
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
    """The number of pixels of each channel at each of the 256 levels, (channels, 256).

    Exact, and never holds the images as floats. ``bincount`` makes eight bytes of each pixel, so it is called with
    ``chunk`` images at a time.
    """
    counts = np.zeros((images.shape[3], 256), np.int64)
    for start in range(0, len(images), chunk):
        for channel in range(len(counts)):
            counts[channel] += np.bincount(images[start : start + chunk, ..., channel].ravel(), minlength=256)
    return counts


@attrs.frozen(eq=False)
class Batch:
    """The plan of a training step: its images, and how each is augmented.

    Attributes:
        rows: indices into the training split, int64, (batch,).
        shifts: row and column of the crop's corner in the padded image, each in 0..2·padding, int64, (batch, 2).
        flips: whether the crop is mirrored left to right, bool, (batch,).
        padding: the pixels that are reflected at each side before the crop; with 0 there is no crop.
        random: the random numbers of the epoch, for what else is drawn in the step.
        first: the index of the batch's first image in the epoch's order.
    """

    rows: NDArray[np.int64]
    shifts: NDArray[np.int64]
    flips: NDArray[np.bool_]
    padding: int
    random: Randomness = Randomness(0)
    first: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, first: int, last: int) -> "Batch":
        """Return a contiguous part of the batch.

        Args:
            first: the index of its first image in the batch.
            last: the index behind its last one.
        """
        rows = slice(first, last)
        return attrs.evolve(
            self, rows=self.rows[rows], shifts=self.shifts[rows], flips=self.flips[rows], first=self.first + first
        )


def augmented(images: NDArray[np.uint8], batch: Batch) -> NDArray[np.uint8]:
    """The images of a batch: padded by reflection, cropped to their size, and mirrored, as the batch plans.

    The reflection is NumPy's mode ``"reflect"``: the edge pixel itself is not repeated.

    Args:
        images: all images of the split, uint8, (examples, height, width, channels).
        batch: the plan.

    Returns:
        uint8, (batch, height, width, channels), not a view of ``images``.

    Raises:
        InputError: the padding is not smaller than the images' sides.
    """
    height, width, channels = images.shape[1:]
    check_padding(batch.padding, height, width)
    chosen = images[batch.rows]
    if batch.padding == 0 and not batch.flips.any():
        return chosen
    rows = _reflected(batch.shifts[:, 0], batch.padding, height)
    columns = _reflected(batch.shifts[:, 1], batch.padding, width)
    columns = np.where(batch.flips[:, None], columns[:, ::-1], columns)
    firsts = np.arange(len(batch))[:, None] * height
    # one index a pixel into the chosen images, because a gather by three index arrays takes nearly twice as long
    pixels = ((firsts + rows) * width)[:, :, None] + columns[:, None, :]
    crops: NDArray[np.uint8] = chosen.reshape(-1, channels).take(pixels, axis=0)
    return crops


def check_padding(padding: int, height: int, width: int) -> None:
    """Check that images can be padded by reflection.

    Args:
        padding: pixels on each side.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Raises:
        InputError: the padding is not smaller than both sides.
    """
    if padding and padding >= min(height, width):
        raise InputError(
            f"images of {height}×{width} pixels cannot be padded by {padding}: a reflection reaches at most "
            f"{min(height, width) - 1} pixels beyond the edge"
        )


def _reflected(corners: NDArray[np.int64], padding: int, side: int) -> NDArray[np.int64]:
    """The row (or column) of the image that each line of each crop shows, (crops, side)."""
    lines = corners[:, None] + (np.arange(side) - padding)
    reflected: NDArray[np.int64] = (side - 1) - np.abs((side - 1) - np.abs(lines))
    return reflected


class Dataset(Protocol):
    """The protocol of a data set, a plugin of the group ``sparsecore.datasets``.

    The plugin is a frozen attrs class with ``eq=False``. Its fields are the options of the data set, each with a
    default; ``sparsecore plugins`` shows the first line of its docstring. Loading twice gives the same arrays.

    A class that needs no files says so by ``reads_files: ClassVar = False``; a ``--data-dir`` is then refused.
    """

    def load(self, folder: Path | None) -> Images:
        """Load the images and labels.

        Args:
            folder: the folder with the files, ``--data-dir``; None if the user gave none, and the data set may then
                download them, or raise an error that says that it needs a folder.

        Returns:
            Images with uint8 arrays of (examples, height, width, channels), of the same height, width and channels in
            both splits, int64 labels of 0 to ``classes - 1``, and at least one example in each split.

        Raises:
            InputError: a file is missing or is not what it should be; the sentence names the file.
        """
        ...
