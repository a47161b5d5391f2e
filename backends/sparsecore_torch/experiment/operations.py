"""The operations that models are written in, by ``torch.nn.functional`` and the kernels for sparse and tied weights."""

from collections.abc import Callable
from typing import Protocol

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from sparsecore.learning.operations import (
    EPSILON,
    STATISTICS_MOMENTUM,
    check_batch_statistics,
    check_equal_shapes,
    check_kernel_fits,
)
from sparsecore_torch.experiment.layers import TIED, Layers


class TorchWeight(Protocol):
    """A parameter of the model as its operations use it: dense, sparse or tied."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        ...

    def tensor(self) -> Tensor:
        """Return the dense tensor, for operations on small tensors."""
        ...

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """Return the cross-correlation of images with the weight.

        Args:
            x: (batch, in, height, width).
            stride: in both directions.
            padding: zeros on all four sides.

        Returns:
            (batch, out, height, width), in the dtype of the images.
        """
        ...

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x·weightᵀ + bias.

        Args:
            x: (batch, in).
            bias: (out,).

        Returns:
            (batch, out), in the dtype of x.
        """
        ...


@attrs.define(eq=False, slots=False)  # torch.compile cannot make frozen ones
class DenseWeight:
    """A dense parameter."""

    _tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        return tuple(self._tensor.shape)

    def tensor(self) -> Tensor:
        """Return the dense tensor."""
        return self._tensor

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """Return the cross-correlation of images with the weight."""
        return functional.conv2d(x, self._tensor, None, stride, padding)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x·weightᵀ + bias."""
        return functional.linear(x, self._tensor, bias)


@attrs.define(eq=False, slots=False)  # torch.compile cannot make frozen ones
class SparseWeight:
    """A parameter with N_i active entries.

    Attributes:
        values: the active entries, (N_i,).
        positions: their positions in the layout, (N_i,), ascending.
        offset: the tensor's first position.
        shape: its dense shape.
        layers: compute with it.
        measure: is given the inputs that it is multiplied by; None where no strategy asks for their norms.
    """

    values: Tensor
    positions: Tensor
    offset: int
    shape: tuple[int, ...]
    layers: Layers
    measure: Callable[[Tensor], None] | None = None

    def tensor(self) -> Tensor:
        """Return the dense tensor."""
        dense: Tensor = self.layers.dense(self.values, self.positions, self.offset, self.shape)
        return dense

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """Return the cross-correlation of images with the weight."""
        if self.measure is not None:
            self.measure(x)
        images: Tensor = self.layers.conv2d(
            _cast(x), self.values, self.positions, self.offset, self.shape, stride, padding
        )
        return images

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x·weightᵀ + bias."""
        if self.measure is not None:
            self.measure(x)
        product: Tensor = self.layers.linear(_cast(x), self.values, self.positions, self.offset, self.shape)
        return product if bias is None else product + bias.to(product.dtype)


@attrs.define(eq=False, slots=False)  # torch.compile cannot make frozen ones
class TiedWeight:
    """A parameter whose entries are those of a shorter vector, chosen by a hash.

    Attributes:
        values: the vector, (N_i,).
        shape: the dense shape.
        key: of the hash.
        layers: compute with it.
    """

    values: TorchWeight
    shape: tuple[int, ...]
    key: int
    layers: Layers = TIED

    def tensor(self) -> Tensor:
        """Return the dense tensor."""
        dense: Tensor = self.layers.dense(self.values.tensor(), self.key, self.shape)
        return dense

    def conv2d(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """Return the cross-correlation of images with the weight."""
        images: Tensor = self.layers.conv2d(_cast(x), self.values.tensor(), self.key, self.shape, stride, padding)
        return images

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x·weightᵀ + bias."""
        product: Tensor = self.layers.linear(_cast(x), self.values.tensor(), self.key, self.shape)
        return product if bias is None else product + bias.to(product.dtype)


def _cast(x: Tensor) -> Tensor:
    # autocast does not know the operators of this backend
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Normalization(Protocol):
    """Normalizes by the moments of a batch, or by running moments."""

    def __call__(self, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Return (x − mean)/√(variance + ε)·scale + shift for each channel, the second axis of x.

        Args:
            x: (batch, channels) or (batch, channels, height, width).
            scale: (channels,).
            shift: (channels,).
            mean: the running means, (channels,); changed in place in training.
            variance: the running variances, (channels,); changed in place in training.
        """
        ...


def by_batch(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalize by the moments of the batch, in training; the running moments move towards these.

    Raises:
        InputError: the batch has one value per channel.
    """
    check_batch_statistics(x.numel() // x.shape[1])
    return functional.batch_norm(
        x, mean, variance, scale, shift, training=True, momentum=STATISTICS_MOMENTUM, eps=EPSILON
    )


def by_running(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalize by the running moments, in evaluation."""
    return functional.batch_norm(x, mean, variance, scale, shift, training=False, eps=EPSILON)


@attrs.frozen(eq=False)
class TorchOperations:
    """Operations of models in torch. Images are (batch, channels, height, width), in any strides.

    Attributes:
        normalization: how batch norm normalizes.
        tied_layers: those for tied weights.
    """

    normalization: Normalization
    tied_layers: Layers = TIED

    def conv2d(self, x: Tensor, weight: TorchWeight, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Return the cross-correlation of images with a weight, without a bias.

        Args:
            x: (batch, in, height, width).
            weight: (out, in, height, width).
            stride: in both directions.
            padding: zeros on all four sides.

        Raises:
            InputError: the kernel is larger than the padded images.
        """
        check_kernel_fits(x.shape[2:], weight.shape[2:], padding)
        return weight.conv2d(x, stride, padding)

    def batch_norm(self, x: Tensor, scale: TorchWeight, shift: TorchWeight, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalize each channel (or feature).

        Args:
            x: (batch, channels) or (batch, channels, height, width).
            scale: (channels,).
            shift: (channels,).
            mean: the running means, (channels,).
            variance: the running variances, (channels,).

        Raises:
            InputError: in training, there is only one value for each channel.
        """
        return self.normalization(x, scale.tensor(), shift.tensor(), mean, variance)

    def relu(self, x: Tensor) -> Tensor:
        """Return max(x, 0); the gradient at 0 is 0."""
        return functional.relu(x)

    def linear(self, x: Tensor, weight: TorchWeight, bias: TorchWeight | None = None) -> Tensor:
        """Return x·weightᵀ + bias, for x of (batch, in)."""
        return weight.linear(x, None if bias is None else bias.tensor())

    def global_average_pool(self, x: Tensor) -> Tensor:
        """Return the mean over height and width, (batch, channels)."""
        return x.mean((2, 3))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum of two tensors.

        Raises:
            InputError: their shapes differ.
        """
        check_equal_shapes(x.shape, y.shape)
        return x + y

    def flatten(self, x: Tensor) -> Tensor:
        """Return images as vectors, in the order height, width, channel."""
        return x.permute(0, 2, 3, 1).flatten(1)

    def tied(self, values: TorchWeight, shape: tuple[int, ...], key: int) -> TiedWeight:
        """Return a tied weight.

        Args:
            values: a vector, (N_i,), whose values are all entries of the weight.
            shape: of the weight.
            key: of the hash that chooses the value and the sign of each entry.
        """
        return TiedWeight(values, shape, key, self.tied_layers)
