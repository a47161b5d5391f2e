"""The batches of an epoch, planned by the engine's draws.

The order is a function of (seed, epoch), and an example's crop and flip of (seed, epoch, place in the order). So a
plan depends neither on the batch size nor on who computes it, and a resumed run can jump into the middle of an epoch.
"""

from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, Split, check_padding
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError


@attrs.frozen
class Augmentation:
    """How training images are varied.

    Attributes:
        padding: pixels reflected at each side before a random crop of the original size; 0 for no crops.
        flip: whether every second image, at random, is mirrored left to right.
    """

    padding: int = 0
    flip: bool = False

    def __attrs_post_init__(self) -> None:
        if self.padding < 0:
            raise InputError(f"the padding of an augmentation must be at least 0 pixels, not {self.padding}")

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise an :class:`InputError` if images of (height, width, channels) are too small for the padding."""
        check_padding(self.padding, shape[0], shape[1])


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """How many batches an epoch has; the last may be smaller."""
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
        random: the place of the run's draws.
        epoch: which epoch, from 0.
        examples: how many training images there are; each is in exactly one batch.
        batch_size: images a batch; the last batch has what is left.
        augmentation: how the images are varied.
        start: index of the first batch wanted; the number of batches for none.

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
    """The data set without its test images: ``count`` of the training images take their place, and are not trained on.

    They are drawn once for all seeds, so that no run trains on what another is judged by.

    Raises:
        InputError: ``count`` is not 1 to the number of training images minus 1.
    """
    available = len(images.train)
    if not 1 <= count < available:
        raise InputError(f"{count} of {available} training images cannot be held out: expected 1 to {available - 1}")
    rows = Randomness(0).generator("held out").permutation(available)
    return attrs.evolve(images, train=_those(images.train, rows[count:]), test=_those(images.train, rows[:count]))


def first_images(random: Randomness, images: Images, limit: int) -> Images:
    """The data set with only ``limit`` training images, the first of an order drawn once; the test images stay.

    A smaller limit's images are among those of every larger one.

    Raises:
        InputError: ``limit`` is not 1 to the number of training images.
    """
    available = len(images.train)
    if not 1 <= limit <= available:
        raise InputError(f"{limit} training images cannot be kept of {available}: expected 1 to {available}")
    rows = random.generator("first images").permutation(available)[:limit]
    return attrs.evolve(images, train=_those(images.train, rows))


def _those(split: Split, rows: NDArray[np.int64]) -> Split:
    return Split(split.images[rows], split.labels[rows])


def _batch(draws: Randomness, order: NDArray[np.int64], first: int, last: int, augmentation: Augmentation) -> Batch:
    places = np.arange(first, last)
    return Batch(
        rows=order[first:last],
        shifts=_shifts(draws, places, augmentation.padding),
        flips=_flips(draws, places, augmentation.flip),
        padding=augmentation.padding,
    )


def _shifts(draws: Randomness, places: NDArray[np.int64], padding: int) -> NDArray[np.int64]:
    if padding == 0:
        return np.zeros((len(places), 2), np.int64)
    draws_of = (draws.uniform_at(places, "row"), draws.uniform_at(places, "column"))
    return (np.stack(draws_of, axis=1) * (2 * padding + 1)).astype(np.int64)


def _flips(draws: Randomness, places: NDArray[np.int64], flip: bool) -> NDArray[np.bool_]:
    return draws.signs_at(places, "flip") > 0 if flip else np.zeros(len(places), np.bool_)
