"""Batch norm's arithmetic by channel; the passes over activations are the kernels'."""

from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu.activations import Activation
from sparsecore_cpu.machine import Floats, Sums
from sparsecore_numpy.normalization import Channels, Moments, followed


class Statistics(Protocol):
    """Which moments the activations are normalized by."""

    def __call__(self, x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:
        """The moments for ``x``, given the running ones."""
        ...


@attrs.frozen(eq=False)
class Norm:
    """(x − mean)/√(variance + ε)·scale + shift."""

    moments: Moments
    scale: Channels
    shift: Channels

    @property
    def forward(self) -> tuple[Floats, Floats, Floats]:
        """Factor and constant by channel, and the mean."""
        factor = self.scale * self.moments.inverse_deviation
        mean = self.moments.mean
        return _single(factor), _single(self.shift - mean * factor), _single(mean)

    def backward(self, sums: Sums, count: int) -> tuple[Channels, Channels, tuple[Floats, Floats, Floats]]:
        """The gradients of scale and shift; the factors of the outputs' gradient and of x, and a constant.

        ``sums`` are those of the outputs' gradient, and of it times x − mean in single precision.
        """
        inverse, mean = self.moments.inverse_deviation, self.moments.mean
        by_shift = sums[:, 0]
        by_scale = (sums[:, 1] + (_single(mean) - mean) * by_shift) * inverse
        by_gradient = self.scale * inverse
        by_x = -by_gradient * inverse * by_scale / count
        constant = -by_gradient * by_shift / count - by_x * mean
        return by_scale, by_shift, (_single(by_gradient), _single(by_x), _single(constant))


def of_batch(x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:
    """In training: those of the batch, towards which the running ones move."""
    return followed(lambda: Moments(*x.moments()), x.form.entries, mean, variance)


def running(x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:  # noqa: ARG001
    """In evaluation: the running ones."""
    return Moments(mean.astype(np.float64), variance.astype(np.float64))


def _single(channels: Channels) -> Floats:
    return channels.astype(np.float32)
