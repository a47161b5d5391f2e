"""The operations that models are written in, their constants, and the checks of arguments that all backends share."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from sparsecore.errors import InputError

Tensor: TypeAlias = Any
"""A backend's own type of activations and parameters."""


class Operations(Protocol):
    """The operations that models are written in. Weights are (out, in, height, width) and (out, in)."""

    def conv2d(self, x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Cross-correlation without a bias.

        Args:
            x: images, (batch, in, height, width) in the backend's own memory layout.
            weight: (out, in, height, width).
            stride: in pixels, along both sides.
            padding: zeros on all four sides, in pixels.

        Raises:
            InputError: the kernel is larger than the padded images.
        """
        ...

    def batch_norm(self, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalize each channel (or feature), by the batch in training and by running statistics in evaluation.

        In training ``mean`` and ``variance`` are moved by :data:`STATISTICS_MOMENTUM` towards the batch's mean and
        unbiased variance; ε is :data:`EPSILON`.

        Args:
            x: images, or vectors (batch, features).
            scale: (channels,).
            shift: (channels,).
            mean: the running means, (channels,).
            variance: the running variances, (channels,).

        Raises:
            InputError: a training batch has one value per channel.
        """
        ...

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0); the gradient at 0 is 0."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x·weightᵀ + bias.

        Args:
            x: vectors, (batch, in).
            weight: (out, in).
            bias: (out,); None for no bias.

        Returns:
            Vectors, (batch, out).
        """
        ...

    def global_average_pool(self, x: Tensor) -> Tensor:
        """The mean over height and width of images.

        Args:
            x: images, (batch, channels, height, width) in the backend's own memory layout.

        Returns:
            Vectors, (batch, channels).
        """
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of two tensors.

        Args:
            x: images or vectors.
            y: a tensor of the same shape; nothing is broadcast.

        Raises:
            InputError: their shapes differ.
        """
        ...

    def flatten(self, x: Tensor) -> Tensor:
        """Images as vectors, in the order height, width, channel whatever the backend's own memory layout.

        Args:
            x: images.

        Returns:
            Vectors, (batch, height·width·channels), so that the weights of a linear layer mean the same on every
            backend.
        """
        ...

    def tied(self, values: Tensor, shape: tuple[int, ...], key: int) -> Tensor:
        """A weight of this dense shape whose entries share fewer values (HashedNets): entry p is ξ(p)·values[h(p)].

        The gradient of a value is the signed sum of the gradients of all entries that share it.

        Args:
            values: the shared values, (count,).
            shape: the dense shape of the weight.
            key: the key of the hash; see :func:`sparsecore.learning.parameters.hash_slots`.
        """
        ...


EPSILON = 1e-5
"""ε of batch norm."""

STATISTICS_MOMENTUM = 0.1
"""The weight of a batch's moments in the running statistics of batch norm."""


def check_batch_statistics(count: int) -> None:
    """Check that a training batch has several values per channel for batch norm.

    Args:
        count: values per channel: images times pixels, or vectors.

    Raises:
        InputError: there is one, whose variance is undefined.
    """
    if count < 2:
        raise InputError(
            "batch norm needs more than one value a channel to train, and this batch has one; "
            "where it is the last of an epoch, another batch size or limit helps"
        )


def check_kernel_fits(image: Sequence[int], kernel: Sequence[int], padding: int) -> None:
    """Check that a kernel fits into a padded image.

    Args:
        image: height and width in pixels.
        kernel: height and width in pixels.
        padding: zeros on all four sides, in pixels.

    Raises:
        InputError: the kernel is higher or wider.
    """
    if min(image[0] - kernel[0], image[1] - kernel[1]) + 2 * padding < 0:
        raise InputError(
            f"a kernel of {kernel[0]}×{kernel[1]} does not fit into images of {image[0]}×{image[1]} pixels "
            f"with a padding of {padding}"
        )


def check_equal_shapes(x: Sequence[int], y: Sequence[int]) -> None:
    """Check that two tensors that are to be added have the same shape: operations do not broadcast.

    Args:
        x: a shape.
        y: a shape.

    Raises:
        InputError: they differ.
    """
    if x != y:
        raise InputError(f"add takes two tensors of the same shape; given {tuple(x)} and {tuple(y)}")
