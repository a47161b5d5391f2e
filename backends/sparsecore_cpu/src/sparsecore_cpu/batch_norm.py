"""Batch norm as an affine function by channel, and the moments that it normalizes by."""

from typing import Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.computation import Channels, Moments, batch_moments, running_moments
from sparsecore.host.weights import WeightSource
from sparsecore_cpu.activations import Activation
from sparsecore_cpu.runtime import Floats, Sums


class Statistics(Protocol):
    """Chooses the moments that batch norm normalizes by."""

    def __call__(self, x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:
        """The moments for ``x``, given the running mean and variance, each (channels,)."""
        ...


@attrs.frozen(eq=False)
class Norm:
    """Batch norm as an affine function by channel: (x − mean)/√(variance + ε)·scale + shift (Ioffe and Szegedy, 2015).

    Attributes:
        moments: mean and variance, each float64, (channels,).
        scale: γ, float64, (channels,).
        shift: β, float64, (channels,).
        is_of_batch: whether the moments are those of x itself, so that they depend on it.
    """

    moments: Moments
    scale: Channels
    shift: Channels
    is_of_batch: bool = True

    @property
    def forward(self) -> tuple[Floats, Floats, Floats]:
        """Scale and shift of the affine function, and the mean, each float32, (channels,)."""
        factor = self.scale * self.moments.inverse_deviation
        mean = self.moments.mean
        return _single(factor), _single(self.shift - mean * factor), _single(mean)

    def backward(self, sums: Sums, count: int) -> tuple[Channels, Channels, tuple[Floats, Floats, Floats]]:
        """The gradients of the parameters, and how those of the inputs are computed.

        Args:
            sums: those by channel of the outputs' gradient g, and of g·(x − mean) in single precision, (channels, 2).
            count: entries per channel.

        Returns:
            The gradients of scale and of shift; and a, b, c of the inputs' gradient a·g + b·x + c. Each is (channels,).
        """
        inverse, mean = self.moments.inverse_deviation, self.moments.mean
        by_shift = sums[:, 0]
        by_scale = (sums[:, 1] + (_single(mean) - mean) * by_shift) * inverse
        by_gradient = self.scale * inverse
        if not self.is_of_batch:
            none = np.zeros(len(mean), np.float32)
            return by_scale, by_shift, (_single(by_gradient), none, none)
        by_x = -by_gradient * inverse * by_scale / count
        constant = -by_gradient * by_shift / count - by_x * mean
        return by_scale, by_shift, (_single(by_gradient), _single(by_x), _single(constant))


def of_batch(x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:
    """In training: the moments of the batch, towards which the running ones are moved.

    Args:
        x: the activation to be normalized, which is computed now.
        mean: the running mean, (channels,), changed in place.
        variance: the running variance, (channels,), changed in place.

    Raises:
        InputError: there is one value per channel only.
    """
    return batch_moments(lambda: Moments(*x.moments()), x.form.entries, mean, variance)


def running(x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:  # noqa: ARG001
    """In evaluation: the running moments.

    Args:
        x: not used, and so not computed.
        mean: the running mean, (channels,).
        variance: the running variance, (channels,).
    """
    return running_moments(mean, variance)


def without_bias(x: Activation, norm: Norm) -> tuple[Activation, Norm, WeightSource | None]:
    """Move a bias that is pending in front of a batch norm into the norm.

    Args:
        x: the activation to be normalized.
        norm: the batch norm of it.

    Returns:
        What the bias is added to, the batch norm of that whose outputs are the same, and the bias; ``x``, ``norm`` and
        None where ``x`` is no pending sum with a bias.
    """
    affine = x.op.as_affine() if x.is_pending else None
    if affine is None or affine.bias is None:
        return x, norm, None
    moments = attrs.evolve(norm.moments, mean=norm.moments.mean - affine.shift)
    return affine.x, attrs.evolve(norm, moments=moments), affine.bias


def _single(channels: Channels) -> Floats:
    return channels.astype(np.float32)
