"""Predictions image by image: what an image goes through stays in the cache, and no lane waits for a whole block."""

from collections.abc import Callable

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu.inference.network import Network
from sparsecore_cpu.inference.planes import Frame, Plane, Planes
from sparsecore_cpu.inference.program import made
from sparsecore_cpu.inference.rows import Rows
from sparsecore_cpu.inference.tracing import program_of
from sparsecore_cpu.machine import Floats, Machine

_BLOCK_TIMES = 2
"""What a multiply-add takes in a block of images, in those here: activations of a block do not stay in the cache."""


@attrs.frozen(eq=False)
class Single:
    """A network for one image at a time.

    Attributes:
        given: the image, normalized.
        logits: of it.
        calls: that compute them.
        work: multiply-adds of vectors for an image, and for a block of images side by side; see :class:`Rows`.
    """

    given: Plane
    logits: Plane
    calls: tuple[Callable[[], object], ...]
    work: tuple[int, int]
    _mean: Floats
    _std: Floats

    @classmethod
    def of(cls, network: Network, machine: Machine) -> "Single":
        """The network with memory of its own."""
        pictures, planes = network.pictures, Planes()
        height, width, channels = pictures.shape
        given = planes.take(channels, Frame.of(height, width, border=1))
        rows = Rows(machine, given, planes)
        logits = made(program_of(network), rows)
        mean, std = (moment.astype(np.float32)[:, None, None] for moment in (pictures.mean, pictures.std))
        image, block = (sum(vectors) for vectors in zip(*rows.work, strict=True))
        return cls(given, logits, tuple(rows.calls), (image, block), mean, std)

    def is_quicker(self, images: int, lanes: int) -> bool:
        """Whether so many images take less time one by one than in blocks of so many lanes."""
        image, block = self.work
        return images * image <= _BLOCK_TIMES * -(-images // lanes) * block

    def predict(self, images: NDArray[np.generic], logits: Floats) -> None:
        """Fill in the logits, (batch, classes)."""
        pixels = self.given.pixels
        for image, own in zip(images, logits, strict=True):
            np.subtract(image.transpose(2, 0, 1), self._mean, out=pixels, casting="same_kind")
            np.divide(pixels, self._std, out=pixels)
            for call in self.calls:
                call()
            own[:] = self.logits.features
