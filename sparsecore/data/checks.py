"""What every data set promises of its arrays, checked in one place."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Images, Split
from sparsecore.errors import InputError


def checked_split(
    images: NDArray[Any], labels: NDArray[Any], classes: int, *, images_from: object, labels_from: object
) -> Split:
    """A split of arrays as they were read.

    Args:
        images: uint8, (examples, height, width) or (examples, height, width, channels).
        labels: any integers, (examples,), 0 to ``classes - 1``.
        classes: how many classes there may be.
        images_from: where the images were read, for the sentences.
        labels_from: where the labels were read.

    Raises:
        InputError: something is not as above, there are no images, or not as many as labels.
    """
    _check_images(images, images_from)
    _check_labels(labels, classes, labels_from)
    if len(images) != len(labels):
        raise InputError(f"{images_from} has {len(images)} images, but {labels_from} has {len(labels)} labels")
    channels_last = images if images.ndim == 4 else images[..., None]
    return Split(np.ascontiguousarray(channels_last), labels.astype(np.int64))


def checked_images(train: Split, test: Split, classes: int, source: object) -> Images:
    """The data set of two splits; an :class:`InputError` if their images differ in shape."""
    shapes = [" × ".join(map(str, split.images.shape[1:])) for split in (train, test)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{source}: training images of {shapes[0]}, but test images of {shapes[1]}")
    return Images(train, test, classes)


def _check_images(images: NDArray[Any], source: object) -> None:
    if images.dtype != np.uint8:
        raise InputError(f"{source}: images of dtype {images.dtype}, expected uint8")
    if images.ndim not in {3, 4} or min(images.shape[1:]) < 1:
        raise InputError(
            f"{source}: images of shape {images.shape}, expected (examples, height, width) or "
            "(examples, height, width, channels)"
        )
    if len(images) == 0:
        raise InputError(f"{source} has no images")


def _check_labels(labels: NDArray[Any], classes: int, source: object) -> None:
    if labels.dtype.kind not in "iu":
        raise InputError(f"{source}: labels of dtype {labels.dtype}, expected integers")
    if labels.ndim != 1:
        raise InputError(f"{source}: labels of shape {labels.shape}, expected (examples,)")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(f"{source} has the label {wrong[0]}, expected 0 to {classes - 1}")
