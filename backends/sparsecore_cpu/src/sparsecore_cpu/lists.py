"""Lists of the weights that exist, as the kernels run over them.

A list is made from the positions in O(N) by counting: once for a topology and a size of images. In each step only the
values are gathered into it.
"""

import math
from collections.abc import Iterator
from itertools import product

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import Steps
from sparsecore_cpu.machine import Floats

Places = NDArray[np.int32]

_WEIGHTS_A_GROUP = 25
"""Enough of them make up for loading and storing the outputs that they add to; fewer keep more of the input cached."""

_MOST_OFFSET = 2**31 - 1


@attrs.frozen
class Window:
    """Of a convolution: stride and zero padding, in pixels."""

    stride: int = 1
    padding: int = 0

    def outputs(self, side: int, kernel: int) -> int:
        """How many pixels a side comes out."""
        return (side + 2 * self.padding - kernel) // self.stride + 1


@attrs.frozen
class Strides:
    """How many floats lie between rows, channels and pixels of an activation."""

    row: int
    channel: int
    pixel: int


@attrs.frozen(eq=False)
class WeightList:
    """Some weights in the order in which a kernel takes them.

    Attributes:
        order: which of the tensor's entries they are.
        pointers: where each group starts.
        offsets: where each reads, from an output's place.
        values: their values.
        handle: of the kernels.
        steps: which outputs they make.
    """

    order: Places
    pointers: Places
    offsets: Places
    values: Floats
    handle: _kernels.Weights
    steps: Steps

    def fill(self, values: NDArray[np.float32]) -> None:
        """Take over the values of the tensor's entries."""
        np.take(values, self.order, out=self.values, mode="clip")  # which, unlike "raise", needs no buffer


@attrs.frozen(eq=False)
class Taps:
    """The entries of a tensor (out, in, height, width), by coordinates; each array has one entry a weight."""

    shape: tuple[int, int, int, int]
    out: Places
    into: Places
    row: Places
    column: Places

    @classmethod
    def of(cls, shape: tuple[int, ...], positions: NDArray[np.integer]) -> "Taps":
        """Those of the positions, row-major; matrices are kernels of one pixel."""
        out, into, height, width = (*shape, 1, 1)[:4]
        coordinates = np.unravel_index(positions, (out, into, height, width))
        return cls((out, into, height, width), *(coordinate.astype(np.int32) for coordinate in coordinates))

    def forward(self, window: Window, x: Strides) -> WeightList:
        """For the outputs from the inputs, and for the weights' gradients."""
        padding = window.padding
        offsets = (self.row - padding) * np.int64(x.row) + (self.column - padding) * np.int64(x.pixel)
        offsets += self.into * np.int64(x.channel)
        chosen = np.arange(len(self.out), dtype=np.int32)
        return self._listed(chosen, offsets, self.out, self.into, Steps(x_step=window.stride))

    def backward(self, window: Window, gradient: Strides) -> Iterator[WeightList]:
        """For the inputs' gradients from the outputs': one list for each place of a pixel among the strides."""
        for row, column in product(range(window.stride), repeat=2):
            down, right = row + window.padding - self.row, column + window.padding - self.column
            meets = (down % window.stride == 0) & (right % window.stride == 0)
            chosen = np.flatnonzero(meets).astype(np.int32)
            offsets = down[chosen] // window.stride * np.int64(gradient.row)
            offsets += right[chosen] // window.stride * np.int64(gradient.pixel)
            offsets += self.out[chosen] * np.int64(gradient.channel)
            steps = Steps(out_step=window.stride, row=row, column=column)
            yield self._transposed._listed(chosen, offsets, self.into[chosen], self.out[chosen], steps)

    @property
    def _transposed(self) -> "Taps":
        out, into, height, width = self.shape
        return attrs.evolve(self, shape=(into, out, height, width))

    def _listed(
        self, chosen: Places, offsets: NDArray[np.int64], made: Places, read: Places, steps: Steps
    ) -> WeightList:
        if len(offsets) and np.abs(offsets).max() > _MOST_OFFSET:
            raise InputError(
                f"a layer of shape {self.shape} on so large images does not fit the kernels' 32-bit places"
            )
        outputs, inputs = self.shape[:2]
        block = self._inputs_a_block(len(chosen))
        blocks = -(-inputs // block)
        order, pointers = np.empty(len(chosen), np.int32), np.empty(blocks * outputs + 1, np.int32)
        _kernels.sort_by_bucket((read // block * outputs + made).astype(np.int32), order, pointers)
        values = np.zeros(len(chosen), np.float32)
        ordered = offsets[order].astype(np.int32)
        handle = _kernels.Weights(pointers, ordered, values, outputs)
        return WeightList(chosen[order], pointers, ordered, values, handle, steps)

    def _inputs_a_block(self, weights: int) -> int:
        outputs, inputs = self.shape[:2]
        return min(inputs, max(8, math.ceil(_WEIGHTS_A_GROUP * outputs * inputs / max(weights, 1))))


def border_behind(window: Window, kernel: int, made: int, side: int) -> int:
    """How many zeros around the outputs' gradient of ``made`` pixels a side those of ``side`` inputs ask for."""
    reach = [
        ((place + window.padding - tap) // window.stride, -(-(side - place) // window.stride))
        for place, tap in product(range(window.stride), range(kernel))
        if (place + window.padding - tap) % window.stride == 0 and place < side
    ]
    return max([0, *(-first for first, _ in reach), *(first + count - made for first, count in reach)])
