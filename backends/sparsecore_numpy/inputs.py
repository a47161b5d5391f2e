"""Images as a network takes them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Images, Split
from sparsecore_numpy.memory import Memory

_PIXELS = 1 << 17
_MOST_IMAGES = 1 << 10


def normalized(memory: Memory, pictures: NDArray[np.uint8], images: Images) -> NDArray[Any]:
    """(pictures − mean)/std with the mean and deviation of each channel over the training images."""
    result = memory.take(*pictures.shape)
    np.subtract(pictures, images.mean.astype(memory.dtype), out=result)
    np.divide(result, images.std.astype(memory.dtype), out=result)
    return result


def in_batches(split: Split) -> Iterator[Split]:
    """A split in order, as many images at a time as have a bounded number of pixels."""
    height, width = split.images.shape[1:3]
    count = min(max(1, _PIXELS // (height * width)), _MOST_IMAGES)
    for first in range(0, len(split), count):
        yield Split(split.images[first : first + count], split.labels[first : first + count])
