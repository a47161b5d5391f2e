"""Sparse kernels on activations of (blocks, height, channels, width, lanes), compiled from ``kernels/``.

All check their arguments and raise ``ValueError``; none keeps the interpreter's lock while it computes. Nothing is
converted, and no output shares memory with another argument, but for passes that write exactly where they read. Vectors
by channel are float32, ``sums`` are (channels, 2), float64, and are added to. ``threads`` are from 1 to 1024.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUNDLE: int

Floats = NDArray[np.float32]
Places = NDArray[np.int32]
Sums = NDArray[np.float64]

class Activation:
    """A buffer, (blocks, height + 2·border, channels, width + 2·border, lanes), that starts at a cache line.

    It has floats; or, of images, their upper halves as uint16 (bfloat16).
    """

    def __init__(self, buffer: NDArray[Any], border: int, images: int, features: bool) -> None: ...

class Read:
    """What a convolution reads: an activation, or a function of it that is computed on the way."""

    def __init__(self, pixels: Activation) -> None: ...
    @staticmethod
    def rectified(pixels: Activation, scale: Floats, shift: Floats) -> Read:
        """max(scale·pixels + shift, 0)."""

    @staticmethod
    def combined(pixels: Activation, other: Activation, scale: Floats, by_other: Floats, shift: Floats) -> Read:
        """scale·pixels + by_other·other + shift."""

class Weights:
    """The weights that exist, in groups by block of input channels, then by output channel.

    Bundled ones have :data:`BUNDLE` values an offset, for as many output channels; a group is then of such a bundle.
    Pointers and offsets are copied; the values are read where they are whenever the weights are used.
    """

    def __init__(
        self, pointers: Places, offsets: Places, values: Floats, channels: int, bundled: bool = False
    ) -> None: ...
    @property
    def pointers(self) -> Places:
        """Where each group starts, not to be written to."""

    @property
    def offsets(self) -> Places:
        """Where each weight reads, from an output's place; not to be written to."""

class Mask:
    """Where scale·input + shift is positive; and the mean of the input."""

    def __init__(self, input: Activation, scale: Floats, shift: Floats, mean: Floats) -> None: ...

class Steps:
    """Every ``out_step``-th output from (row, column) on; ``x_step`` pixels of the input from one to the next."""

    def __init__(self, x_step: int = 1, out_step: int = 1, row: int = 0, column: int = 0) -> None: ...

class RowConvolution:
    """A convolution of one image, max(add + bias + weights * x, floor), from one run of memory into another.

    The first pixel of the first channel lies at ``start``, and those of the outputs' channels are ``channel`` floats
    apart. The weights of an output channel are those from its pointer to the next; each reads at its offset from the
    output's place. ``inside`` is 1 for the outputs in the image and 0 for those between its rows, which become zero.
    """

    def __init__(
        self,
        kernels: str,
        x: Floats,
        x_start: int,
        out: Floats,
        out_start: int,
        channel: int,
        add: Floats | None,
        pointers: Places,
        offsets: Places,
        values: Floats,
        bias: Floats,
        inside: Floats,
        floor: float,
    ) -> None: ...
    def run(self, threads: int) -> None:
        """Compute the outputs from what the memory has by now."""

class Kernels:
    """The kernels for one instruction set; without a name, for the best that this processor has."""

    def __init__(self, name: str = "") -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def lanes(self) -> int: ...
    def convolve(
        self,
        x: Read,
        out: Activation,
        add: Activation | None,
        weights: Weights,
        steps: Steps,
        sums: Sums | None,
        threads: int,
    ) -> None:
        """Out = add + weights∗x; sums of out and out²."""

    def convolve_masked(
        self,
        x: Read,
        out: Activation,
        add: Activation | None,
        weights: Weights,
        steps: Steps,
        mask: Mask,
        sums: Sums,
        threads: int,
    ) -> None:
        """The same where the mask is, elsewhere zeros; sums of out and out·(input − mean)."""

    def weight_gradient(
        self, x: Read, gradient: Read, weights: Weights, steps: Steps, gradients: Floats, threads: int
    ) -> None:
        """The gradient of each weight."""

    def backward(
        self,
        x: Read,
        gradient: Read,
        weights: Weights,
        stride: int,
        gradients: Floats,
        out: Activation,
        add: Activation | None,
        transposed: Sequence[tuple[Weights, Steps]],
        mask: Mask | None,
        sums: Sums,
        threads: int,
    ) -> None:
        """Both gradients, where the input has ``stride`` times the outputs' height and width; sums only with a mask."""

    def affine(self, x: Activation, out: Activation, scale: Floats, shift: Floats, threads: int) -> None:
        """Out = scale·x + shift."""

    def affine_relu(self, x: Activation, out: Activation, scale: Floats, shift: Floats, threads: int) -> None:
        """Out = max(scale·x + shift, 0)."""

    def combine(
        self,
        gradient: Activation,
        x: Activation,
        out: Activation,
        add: Activation | None,
        by_gradient: Floats,
        by_x: Floats,
        constant: Floats,
        threads: int,
    ) -> None:
        """Out = by_gradient·gradient + by_x·x + constant + add."""

    def masked(
        self,
        gradient: Activation,
        out: Activation,
        mask: Mask,
        sums: Sums,
        threads: int,
    ) -> None:
        """Out = gradient where the mask is; sums as of :meth:`convolve_masked`."""

    def moments(self, x: Activation, about: Floats, sums: Sums, threads: int) -> None:
        """Sums of x − about and of its square."""

    def products(self, gradient: Activation, x: Activation, mean: Floats, sums: Sums, threads: int) -> None:
        """Sums of gradient and of gradient·(x − mean)."""

    def pool(self, x: Activation, features: Activation, threads: int) -> None:
        """The mean over height and width."""

    def spread(self, features: Activation, out: Activation, add: Activation | None, threads: int) -> None:
        """The gradient of :meth:`pool`, plus ``add``."""

    def pack(self, images: Floats, out: Activation, threads: int) -> None:
        """Images (images, height, width, channels) of any strides into a buffer; features are images of one pixel."""

    def unpack(self, x: Activation, images: Floats, threads: int) -> None:
        """The way back, into an array of any strides."""

def sort_by_bucket(keys: Places, order: Places, pointers: Places) -> None:
    """Stable: ``order`` gets the places of the keys by bucket, ``pointers`` where each bucket starts."""

def gather(entries: Floats, order: Places, listed: Floats, threads: int) -> None:
    """``listed[i] = entries[order[i]]``, and zero where that is one beyond the last."""

def scatter(listed: Floats, order: Places, entries: Floats, threads: int) -> None:
    """``entries[order[i]] = listed[i]`` where there is such an entry; each comes once."""

def _fail_scratch(after: int) -> None:
    """For tests: once so many more tasks have got their memory, one gets none."""
