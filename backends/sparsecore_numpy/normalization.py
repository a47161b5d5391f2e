"""Batch norm, block by block of the batch, so that a block stays in the cache for all passes."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsecore.host.computation import Channels, Moments, batch_moments, running_moments
from sparsecore_numpy.workspace import Block, Workspace, along_lines, block_count, lines, per_channel


class Statistics(Protocol):
    """Chooses the moments that batch norm normalizes by."""

    def __call__(self, workspace: Workspace, x: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any]) -> Moments:
        """The moments for ``x``, given the running mean and variance, each (channels,)."""
        ...


def of_batch(workspace: Workspace, x: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any]) -> Moments:
    """In training: the moments of the batch, towards which the running ones are moved.

    Args:
        workspace: memory and threads.
        x: activations, (..., channels).
        mean: running means, (channels,).
        variance: running variances, (channels,).

    Raises:
        InputError: the batch has one value per channel.
    """
    return batch_moments(lambda: _moments(workspace, x), x.size // x.shape[-1], mean, variance)


def running(workspace: Workspace, x: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any]) -> Moments:  # noqa: ARG001
    """In evaluation: the running moments in float64.

    Args:
        workspace: not used.
        x: not used.
        mean: running means, (channels,).
        variance: running variances, (channels,).
    """
    return running_moments(mean, variance)


def forward(workspace: Workspace, x: NDArray[Any], moments: Moments, scale: Channels, shift: Channels) -> NDArray[Any]:
    """(x − mean)/√(variance + ε)·scale + shift (Ioffe and Szegedy, 2015).

    Args:
        workspace: memory and threads.
        x: activations, (..., channels).
        moments: mean and variance, each float64, (channels,).
        scale: γ, float64, (channels,).
        shift: β, float64, (channels,).

    Returns:
        A new array in the shape and dtype of ``x``.
    """
    output = workspace.memory.take(*x.shape)
    factor = along_lines(scale * moments.inverse_deviation, x)
    offset = along_lines(shift - moments.mean * scale * moments.inverse_deviation, x)

    def part(block: Block) -> None:
        out = lines(output[block.rows])
        np.multiply(lines(x[block.rows]), factor, out=out)
        np.add(out, offset, out=out)

    workspace.by_blocks(part, x)
    return output


def backward(
    workspace: Workspace, x: NDArray[Any], moments: Moments, scale: Channels, gradient: NDArray[Any]
) -> tuple[NDArray[Any], Channels, Channels]:
    """The gradients of batch norm, where the moments are those of the batch.

    Args:
        workspace: memory and threads.
        x: the activations that were normalized, (..., channels).
        moments: their moments.
        scale: γ, float64, (channels,).
        gradient: the gradient of the outputs, in the shape of ``x``.

    Returns:
        The gradients of the activations in the shape of ``x``, of the scale and of the shift, each float64,
        (channels,).
    """
    inverse = moments.inverse_deviation
    shift_gradient, scale_gradient = _gradient_sums(workspace, x, moments.mean, gradient)
    scale_gradient *= inverse
    count = x.size // x.shape[-1]
    by_gradient = scale * inverse
    by_x = -by_gradient * inverse * scale_gradient / count
    constant = -by_gradient * shift_gradient / count - by_x * moments.mean
    return _combination(workspace, (gradient, by_gradient), (x, by_x), constant), scale_gradient, shift_gradient


def _moments(workspace: Workspace, x: NDArray[Any]) -> Moments:
    # about the mean of a few images, so that the variance does not cancel and one reading of the batch is enough
    few = x[:8]
    about = (_sum(lines(few), x.shape[-1]) / (few.size // x.shape[-1])).astype(x.dtype)
    centre = along_lines(about, x)
    sums = np.empty((block_count(x), 2, x.shape[-1]))

    def part(block: Block) -> None:
        difference = np.subtract(lines(x[block.rows]), centre, out=block.scratch)
        total = _sum(difference, x.shape[-1])
        sums[block.number] = total, _sum(np.multiply(difference, difference, out=difference), x.shape[-1])

    workspace.by_blocks(part, x)
    first, second = sums.sum(axis=0) / (x.size // x.shape[-1])
    return Moments(about + first, second - first**2)


def _gradient_sums(
    workspace: Workspace, x: NDArray[Any], mean: Channels, gradient: NDArray[Any]
) -> tuple[Channels, Channels]:
    """The sums per channel of the gradient, and of the gradient times (x − mean)."""
    centre = along_lines(mean, x)
    sums = np.empty((block_count(x), 2, x.shape[-1]))

    def part(block: Block) -> None:
        difference = np.subtract(lines(x[block.rows]), centre, out=block.scratch)
        entries = lines(gradient[block.rows])
        total = _sum(entries, x.shape[-1])
        sums[block.number] = total, _sum(np.multiply(entries, difference, out=difference), x.shape[-1])

    workspace.by_blocks(part, x)
    first, second = sums.sum(axis=0)
    return first, second


def _combination(
    workspace: Workspace,
    first: tuple[NDArray[Any], Channels],
    second: tuple[NDArray[Any], Channels],
    constant: Channels,
) -> NDArray[Any]:
    """The sum of two arrays, each times a factor by channel, and of a constant by channel."""
    (x, by_x), (y, by_y) = first, second
    output = workspace.memory.take(*x.shape)
    x_factor, y_factor, offset = (along_lines(channels, x) for channels in (by_x, by_y, constant))

    def part(block: Block) -> None:
        out = lines(output[block.rows])
        np.multiply(lines(y[block.rows]), y_factor, out=out)
        np.add(out, offset, out=out)
        np.add(out, np.multiply(lines(x[block.rows]), x_factor, out=block.scratch), out=out)

    workspace.by_blocks(part, x)
    return output


def _sum(entries: NDArray[Any], channels: int) -> Channels:
    # the product with ones is BLAS's, twice as fast as NumPy's own sum; and unlike einsum it lets other threads run
    return per_channel(np.ones(len(entries), entries.dtype) @ entries, channels)
