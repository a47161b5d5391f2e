"""The batches of an epoch, planned from the run's random numbers.

The order is a function of (seed, epoch), and an example's crop and flip of (seed, epoch, index in the order). So a plan
depends neither on the batch size nor on the backend, and a resumed run can continue in the middle of an epoch.
"""

from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, check_padding
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError


@attrs.frozen
class Augmentation:
    """How training images are augmented.

    Attributes:
        padding: pixels reflected at each side before a random crop of the original size; 0 for no crops.
        flip: whether images are mirrored left to right with a probability of 1/2.
    """

    padding: int = 0
    flip: bool = False

    def __attrs_post_init__(self) -> None:
        if self.padding < 0:
            raise InputError(f"the padding of an augmentation must be at least 0 pixels, not {self.padding}")

    def check(self, shape: tuple[int, int, int]) -> None:
        """Check that images are large enough for the padding.

        Args:
            shape: height and width in pixels, and channels.

        Raises:
            InputError: the padding is not smaller than both sides, so that a reflection cannot fill it.
        """
        check_padding(self.padding, shape[0], shape[1])


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """The number of batches in an epoch, of which the last may be smaller.

    Args:
        examples: the number of training images.
        batch_size: images per batch.

    Raises:
        InputError: there is no example, or the batch size is below 1.
    """
    if examples < 1 or batch_size < 1:
        raise InputError(
            f"an epoch needs at least one example and a batch size of at least 1, "
            f"not {examples} examples and a batch size of {batch_size}"
        )
    return -(-examples // batch_size)


def batches(
    random: Randomness,
    epoch: int,
    examples: int,
    batch_size: int,
    augmentation: Augmentation,
    start: int = 0,
) -> Iterator[Batch]:
    """The epoch's batches, from the one with index ``start`` on.

    Args:
        random: the run's random numbers.
        epoch: the index of the epoch, from 0.
        examples: the number of training images; each is in exactly one batch.
        batch_size: images per batch; the last batch has the rest.
        augmentation: how the images are augmented.
        start: the index of the first batch that is returned; the number of batches for none.

    Raises:
        InputError: there is no example, the batch size is below 1, or the epoch has no batch ``start``.
    """
    steps = steps_per_epoch(examples, batch_size)
    if not 0 <= start <= steps:
        raise InputError(f"an epoch of {steps} batches cannot start at batch {start}")
    order = random.generator("order", epoch).permutation(examples).astype(np.int64, copy=False)
    draws = random.child("augmentation", epoch)
    firsts = range(start * batch_size, examples, batch_size)
    return (_batch(draws, order, first, min(first + batch_size, examples), augmentation) for first in firsts)


def held_out(images: Images, count: int) -> Images:
    """A data set whose test images are replaced by some of the training images, which are not trained on.

    They are the same for all seeds, so that no run trains on images that another one is evaluated on.

    Args:
        images: the data set, whose own test images are left out.
        count: the number of training images to hold out.

    Returns:
        Copies of both parts, in a random order.

    Raises:
        InputError: ``count`` is not 1 to the number of training images minus 1.
    """
    available = len(images.train)
    if not 1 <= count < available:
        raise InputError(f"{count} of {available} training images cannot be held out: expected 1 to {available - 1}")
    rows = Randomness(0).generator("held out").permutation(available)
    train, test = images.train.at(rows[count:]), images.train.at(rows[:count])
    return attrs.evolve(images, train=train, test=images.tested(test))


def first_images(random: Randomness, images: Images, limit: int) -> Images:
    """A data set with only some of the training images, the first of a random order, and all test images.

    The images of a smaller limit are among those of every larger one.

    Args:
        random: the run's random numbers; other seeds choose other images.
        images: the data set.
        limit: the number of training images to keep.

    Raises:
        InputError: ``limit`` is not 1 to the number of training images.
    """
    available = len(images.train)
    if not 1 <= limit <= available:
        raise InputError(f"{limit} training images cannot be kept of {available}: expected 1 to {available}")
    rows = random.generator("first images").permutation(available)[:limit]
    return attrs.evolve(images, train=images.train.at(rows))


def _batch(draws: Randomness, order: NDArray[np.int64], first: int, last: int, augmentation: Augmentation) -> Batch:
    indices = np.arange(first, last)
    return Batch(
        rows=order[first:last],
        shifts=_shifts(draws, indices, augmentation.padding),
        flips=_flips(draws, indices, augmentation.flip),
        padding=augmentation.padding,
        random=draws,
        first=first,
    )


def _shifts(draws: Randomness, indices: NDArray[np.int64], padding: int) -> NDArray[np.int64]:
    if padding == 0:
        return np.zeros((len(indices), 2), np.int64)
    draws_of = (draws.uniform_at(indices, "row"), draws.uniform_at(indices, "column"))
    return (np.stack(draws_of, axis=1) * (2 * padding + 1)).astype(np.int64)


def _flips(draws: Randomness, indices: NDArray[np.int64], flip: bool) -> NDArray[np.bool_]:
    return draws.signs_at(indices, "flip") > 0 if flip else np.zeros(len(indices), np.bool_)
