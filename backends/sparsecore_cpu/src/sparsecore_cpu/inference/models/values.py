"""Values of a compiled program: arrays in PyTorch's layout that look into the memory of planes where they can."""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu.inference.planes import Frame, Plane


@attrs.frozen(eq=False)
class Value:
    """The value of one node, whose memory is the same in every prediction.

    Attributes:
        array: in PyTorch's layout; a constant, or written by the calls.
        owners: the planes whose memory it looks into.
        copies: the planes that were copied from it, by what they hold: "images" or "vectors".
    """

    array: NDArray[Any]
    owners: tuple[Plane, ...] = ()
    copies: dict[str, Plane] = attrs.field(factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape

    def as_images(self) -> Plane | None:
        """The plane that holds it as one image, (1, channels, height, width); None: there is none."""
        if self.array.ndim != 4 or len(self.array) != 1:
            return self.copies.get("images")
        for owner in self.owners:
            sides = owner.frame.height, owner.frame.width
            if self.array.shape[2:] == sides and (plane := _within(owner, owner.pixels, self.array[0])):
                return plane
        return self.copies.get("images")

    def as_vectors(self) -> Plane | None:
        """The plane that holds it as vectors, (..., features), one a pixel; None: there is none."""
        channels_first = np.moveaxis(self.array, -1, 0)
        pixels = math.prod(self.array.shape[:-1])
        for owner in self.owners:
            if (owner.frame.height, owner.frame.width) == (1, pixels):
                whole = owner.runs[:, :pixels].reshape(owner.channels, *self.array.shape[:-1])
                if plane := _within(owner, whole, channels_first):
                    return plane
        return self.copies.get("vectors")


def image_value(plane: Plane) -> Value:
    """An image in a plane as (1, channels, height, width).

    Args:
        plane: its memory.
    """
    return Value(plane.pixels[None], (plane,))


def vector_value(plane: Plane, leading: Sequence[int]) -> Value:
    """The vectors in a plane as (..., features).

    Args:
        plane: its memory, of height 1 and one pixel for each vector.
        leading: the sizes before the last one.
    """
    channels_first = plane.runs[:, : math.prod(leading)].reshape(plane.channels, *leading)
    return Value(np.moveaxis(channels_first, 0, -1), (plane,))


def vector_frame(vectors: int) -> Frame:
    """The frame of so many vectors.

    Args:
        vectors: their number.
    """
    return Frame.of(1, vectors, border=0)


def _within(owner: Plane, whole: NDArray[Any], part: NDArray[Any]) -> Plane | None:
    """The plane of some consecutive channels of another one; None where the part is laid out in another way.

    Args:
        owner: the other plane.
        whole: its entries, channels first.
        part: an array.
    """
    if part.ndim != whole.ndim or part.shape[1:] != whole.shape[1:] or part.dtype != whole.dtype:
        return None
    if any(one != other for one, other, size in zip(part.strides, whole.strides, part.shape, strict=True) if size > 1):
        return None
    first, rest = divmod(_address(part) - _address(whole), owner.frame.room * whole.itemsize)
    if rest or not 0 <= first <= owner.channels - part.shape[0]:
        return None
    if (first, part.shape[0]) == (0, owner.channels):
        return owner
    return Plane(owner.frame, part.shape[0], owner.memory[first * owner.frame.room :])


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
