"""Whether colour images have been JPEG files: their brightness then lies on the grid that JPEG rounds it to."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# ITU-T T.81, table K.1, rows and columns 0 to 3: steps for the coefficients of brightness at quality 50
_STEPS = np.array([[16, 11, 10, 16], [12, 12, 14, 19], [14, 13, 16, 24], [14, 17, 22, 29]])
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])
_QUALITIES = range(50, 91, 5)  # beyond, steps are too small to be told from the rounding of pixels
_ENOUGH = 500  # coefficients that are not rounded to zero
_ON_THE_GRID = 0.15  # mean distance from the grid in steps; 0.25 where there is no grid


def jpeg_quality(images: NDArray[np.uint8]) -> int | None:
    """The quality (50, 55, ... 90) of the JPEG files that these images come from; None where there is no sign of one.

    Args:
        images: (examples, height, width, channels); only those of three channels, with sides that are multiples of 8,
            are looked at. Some hundred of 32×32 pixels are enough.
    """
    height, width, channels = images.shape[1:]
    if channels != 3 or height % 8 or width % 8:
        return None
    coefficients = _coefficients(images @ _BRIGHTNESS - 128)
    found = [(distance, quality) for quality, distance in _distances(coefficients) if distance < _ON_THE_GRID]
    return min(found)[1] if found else None


def _distances(coefficients: Floats) -> Iterator[tuple[int, float]]:
    """Of each quality, how far from multiples of its steps the coefficients are on the mean, in steps."""
    for quality in _QUALITIES:
        steps = np.floor((_STEPS * (200 - 2 * quality) + 50) / 100)
        counts = (coefficients / steps).reshape(-1, 16)[:, 1:]  # the mean brightness is of no use
        counts = counts[np.abs(counts) > 0.5]
        if len(counts) >= _ENOUGH:
            yield quality, float(np.abs(counts - np.round(counts)).mean())


def _coefficients(brightness: Floats) -> Floats:
    """The cosine transform of the 8×8 blocks, its lowest 4×4 frequencies; (blocks, 4, 4)."""
    examples, height, width = brightness.shape
    blocks = brightness.reshape(examples, height // 8, 8, width // 8, 8)
    frequency, place = np.arange(4)[:, None], np.arange(8)
    waves = np.cos((2 * place + 1) * frequency * np.pi / 16) * np.where(frequency == 0, np.sqrt(1 / 8), 0.5)
    frequencies: Floats = np.einsum("ui,nriqj,vj->nrquv", waves, blocks, waves, optimize=True)
    return frequencies.reshape(-1, 4, 4)
