"""Random crops and mirror images as one gather: what a :class:`Batch` plans, applied to the images of a split."""

import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch
from sparsecore.errors import InputError


def augmented(images: NDArray[np.uint8], batch: Batch) -> NDArray[np.uint8]:
    """The images of a batch: padded by reflection, cropped back to their size, mirrored where the batch says so.

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
    """Raise an :class:`InputError` unless images of this size can be padded so far by reflection."""
    if padding and padding >= min(height, width):
        raise InputError(
            f"images of {height}×{width} pixels cannot be padded by {padding}: a reflection reaches at most "
            f"{min(height, width) - 1} pixels beyond the edge"
        )


def _reflected(corners: NDArray[np.int64], padding: int, side: int) -> NDArray[np.int64]:
    """Which row (or column) of the image each line of each crop shows; (crops, side)."""
    lines = corners[:, None] + (np.arange(side) - padding)
    reflected: NDArray[np.int64] = (side - 1) - np.abs((side - 1) - np.abs(lines))
    return reflected
