"""The operations that models are written in, as pure functions of JAX's arrays."""

import math
from typing import Any

import attrs
import jax
import jax.numpy as jnp
from jax import lax

from sparsecore.learning.operations import (
    EPSILON,
    STATISTICS_MOMENTUM,
    check_batch_statistics,
    check_equal_shapes,
    check_kernel_fits,
)
from sparsecore.learning.parameters import hash_slots

_LAYOUT = ("NHWC", "OIHW", "NHWC")


@attrs.frozen(eq=False)
class JaxParameter:
    """A parameter as the operations of a model use it.

    Attributes:
        name: of the parameter; empty for a tied weight.
        tensor: its entries in the dense shape.
    """

    name: str
    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        return tuple(self.tensor.shape)


@attrs.frozen(eq=False)
class JaxOperations:
    """Implements :class:`sparsecore.learning.protocols.Operations`; images are (batch, height, width, channels).

    Nothing is changed in place: what a step leaves behind is collected here, and is part of its result.

    Attributes:
        training: whether batch norm normalizes by the batch, or by the running statistics.
        moved: the running statistics after the step, by name.
        squares: for each parameter that a layer multiplies its input by, the sum of the squares of each input over
            examples and pixels, (in,), float64; None to measure none.
    """

    training: bool
    moved: dict[str, Any] = attrs.field(factory=dict)
    squares: dict[str, Any] | None = None

    def conv2d(self, x: Any, weight: JaxParameter, *, stride: int = 1, padding: int = 0) -> Any:
        """Return the cross-correlation of images with a weight, without a bias.

        Args:
            x: (batch, height, width, in).
            weight: (out, in, height, width).
            stride: in both directions.
            padding: zeros on all four sides.

        Raises:
            InputError: the kernel is larger than the padded images.
        """
        check_kernel_fits(x.shape[1:3], weight.shape[2:], padding)
        self._measure(x, weight)
        return lax.conv_general_dilated(
            x,
            weight.tensor.astype(x.dtype),
            (stride, stride),
            ((padding, padding), (padding, padding)),
            dimension_numbers=_LAYOUT,
            precision=lax.Precision.HIGHEST,  # float32 is not rounded to fewer bits on any device
        )

    def batch_norm(
        self, x: Any, scale: JaxParameter, shift: JaxParameter, mean: JaxParameter, variance: JaxParameter
    ) -> Any:
        """Normalize each channel (or feature), in the dtype of the parameters.

        Args:
            x: (batch, channels) or (batch, height, width, channels).
            scale: (channels,).
            shift: (channels,).
            mean: the running means, (channels,).
            variance: the running variances, (channels,).

        Raises:
            InputError: in training, there is only one value for each channel.
        """
        numbers = x.astype(scale.tensor.dtype)
        centre, spread = self._moments(numbers, mean, variance) if self.training else (mean.tensor, variance.tensor)
        factor = scale.tensor * lax.rsqrt(spread + EPSILON)
        return ((numbers - centre) * factor + shift.tensor).astype(x.dtype)

    def _moments(self, x: Any, mean: JaxParameter, variance: JaxParameter) -> tuple[Any, Any]:
        """Return the moments of a batch, towards which the running ones move."""
        axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
        check_batch_statistics(count)
        of_batch = x.mean(axes)
        spread = jnp.square(x - of_batch).mean(axes)  # about the mean, not E[x²] - mean², which cancels
        for running, now in ((mean, of_batch), (variance, spread * (count / (count - 1)))):
            before = self.moved.get(running.name, running.tensor)
            self.moved[running.name] = before + STATISTICS_MOMENTUM * (lax.stop_gradient(now) - before)
        return of_batch, spread

    def relu(self, x: Any) -> Any:
        """Return max(x, 0); the gradient at 0 is 0."""
        return jax.nn.relu(x)

    def linear(self, x: Any, weight: JaxParameter, bias: JaxParameter | None = None) -> Any:
        """Return x·weightᵀ + bias, for x of (batch, in)."""
        self._measure(x, weight)
        product = jnp.matmul(x, weight.tensor.astype(x.dtype).T, precision=lax.Precision.HIGHEST)
        return product if bias is None else product + bias.tensor.astype(x.dtype)

    def global_average_pool(self, x: Any) -> Any:
        """Return the mean over height and width, (batch, channels)."""
        return x.mean((1, 2))

    def add(self, x: Any, y: Any) -> Any:
        """Return the sum of two tensors.

        Raises:
            InputError: their shapes differ.
        """
        check_equal_shapes(x.shape, y.shape)
        return x + y

    def flatten(self, x: Any) -> Any:
        """Return images as vectors, in the order height, width, channel."""
        return x.reshape(len(x), -1)

    def tied(self, values: JaxParameter, shape: tuple[int, ...], key: int) -> JaxParameter:
        """Return a weight whose entries share the values by a hash.

        Args:
            values: (count,).
            shape: of the weight.
            key: of the hash.
        """
        slots, signs = hash_slots(jnp.arange(math.prod(shape), dtype=jnp.int64), values.shape[0], key)
        return JaxParameter("", (values.tensor[slots] * signs.astype(values.tensor.dtype)).reshape(shape))

    def _measure(self, x: Any, weight: JaxParameter) -> None:
        if self.squares is None or not weight.name:
            return
        squares = jnp.square(x.astype(jnp.float64)).sum(tuple(range(x.ndim - 1)))
        self.squares[weight.name] = self.squares.get(weight.name, 0) + squares
