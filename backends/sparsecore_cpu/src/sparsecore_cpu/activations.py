"""Lazily evaluated activations: the consumer decides which fused kernel computes them.

So a sum of two tensors is one convolution that starts from the other tensor, and batch norm and relu are one pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.weights import WeightSource
from sparsecore_cpu import _kernels
from sparsecore_cpu.gradients import LazyGradient
from sparsecore_cpu.runtime import Buffer, Floats, Form, KernelInput, Runtime, Sums
from sparsecore_cpu.weighted import WeightedLayer

_MOST_CANCELLATION = 16.0
"""Where the squared mean exceeds so many variances, a sum of squares loses too many digits, and is computed again."""


class LazyOp(ABC):
    """An operation whose output is computed when a consumer needs it; by default it fuses with no consumer."""

    @abstractmethod
    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:
        """The output, in a buffer that is not written to afterwards.

        Args:
            runtime: kernels, threads and memory.
            form: the form of the output.
            sums: float64, (channels, 2), which receives the sums of entries and of squares by channel where they cost
                little and stays zero elsewhere; or None if they are not needed.
        """

    def compute_added(self, runtime: Runtime, form: Form, other: "Activation", sums: Sums | None) -> Buffer | None:  # noqa: ARG002
        """The output plus another activation in one pass; None: this operation cannot be fused with a sum.

        Args:
            runtime: kernels, threads and memory.
            form: the form of both activations.
            other: the other activation.
            sums: as of :meth:`compute`, for the sum of both.
        """
        return None

    def compute_biased(
        self,
        runtime: Runtime,  # noqa: ARG002
        form: Form,  # noqa: ARG002
        bias: Floats,  # noqa: ARG002
        other: "Activation | None",  # noqa: ARG002
    ) -> Buffer | None:
        """The output plus a bias and another activation in one pass; None: this operation cannot be fused with a bias.

        Args:
            runtime: kernels, threads and memory.
            form: the form of the output.
            bias: float32, by channel, (channels,).
            other: an activation of this form, if any.
        """
        return None

    def as_affine(self) -> "AffineOp | None":
        """Itself as an affine function, which relu is fused with; None if it is no affine function."""
        return None

    def as_kernel_input(self, activation: "Activation") -> KernelInput | None:  # noqa: ARG002
        """An input that convolutions compute as they read it; None: this operation cannot be fused."""
        return None


@attrs.define(eq=False)
class Activation:
    """One tensor of a network in one step.

    Attributes:
        runtime: computes it.
        form: its form.
        op: the operation whose output it is.
        differentiable: False for the network's input, whose gradient is not needed.
        gradient: the terms of the loss's gradient for it so far.
    """

    runtime: Runtime
    form: Form
    op: LazyOp
    differentiable: bool = True
    gradient: LazyGradient = attrs.field(factory=LazyGradient)
    _buffer: Buffer | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it has not been computed yet."""
        return self._buffer is None

    @property
    def has_gradient(self) -> bool:
        """Whether an operation has contributed to its gradient."""
        return bool(self.gradient.ready or self.gradient.terms)

    def start_gradient(self, gradient: Buffer) -> None:
        """Begin the backward pass at this activation."""
        self.gradient.ready.append(gradient)

    def buffer(self) -> Buffer:
        """Its memory, computed now at the latest; never written to again."""
        if self._buffer is None:
            self._buffer = self.op.compute(self.runtime, self.form, None)
        return self._buffer

    def release(self) -> None:
        """Give its memory back; if something reads it after all, it is computed again."""
        self._buffer = None

    def kernel_input(self) -> KernelInput:
        """The input of a convolution that reads it, which need not be computed before."""
        fused = self.op.as_kernel_input(self) if self.is_pending else None
        return fused or KernelInput.plain(self.buffer())

    def moments(self) -> tuple[Sums, Sums]:
        """Mean and variance by channel, over the batch and the pixels.

        Returns:
            The mean and the biased variance, float64, each (channels,).
        """
        affine = self.op.as_affine() if self.is_pending else None
        if affine is not None:
            mean, variance = affine.x.moments()
            return affine.scale * mean + affine.shift, np.square(affine.scale, dtype=np.float64) * variance
        if self._buffer is None:
            sums = np.zeros((self.form.channels, 2))
            self._buffer = self.op.compute(self.runtime, self.form, sums)
            mean, square = sums.T / self.form.entries
            variance = square - mean**2
            # sums are zero where the operation did not compute them; then, and where digits were lost, they are now
            if np.all(square > 0) and np.all(mean**2 <= _MOST_CANCELLATION * variance):
                return mean, variance
        return self._moments_in_two_passes()

    def sums_of_squares(self) -> NDArray[np.float64]:
        """The sum of the squares by channel, over the batch and the pixels, (channels,)."""
        _, mean_square = self._moments_about(np.zeros(self.form.channels, np.float32))
        return mean_square * self.form.entries

    def _moments_in_two_passes(self) -> tuple[Sums, Sums]:
        about: Floats = np.zeros(self.form.channels, np.float32)
        mean, _ = self._moments_about(about)
        about = mean.astype(np.float32)
        rest, square = self._moments_about(about)
        return about + rest, np.maximum(square - rest**2, 0)

    def _moments_about(self, about: Floats) -> tuple[Sums, Sums]:
        sums = np.zeros((self.form.channels, 2))
        self.runtime.kernels.moments(self.buffer().handle, about, sums, self.runtime.threads)
        first, second = sums.T / self.form.entries
        return first, second


@attrs.frozen(eq=False)
class InputNode(LazyOp):
    """Data that is already in memory."""

    buffer: Buffer

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The data."""
        return self.buffer


@attrs.frozen(eq=False)
class ConvolutionOp(LazyOp):
    """A convolution or a linear layer."""

    layer: WeightedLayer
    x: Activation

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The outputs, and their sums."""
        return self.layer.forward(self.x.kernel_input(), form, None, sums)

    def compute_added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The convolution starts from the other activation in place of zeros."""
        start = other.buffer()
        return self.layer.forward(self.x.kernel_input(), form, start, sums)

    def compute_biased(self, runtime: Runtime, form: Form, bias: Floats, other: Activation | None) -> Buffer | None:  # noqa: ARG002
        """A linear layer starts from both."""
        if not form.features:
            return None
        start = None if other is None else other.buffer()
        return self.layer.forward_biased(self.x.kernel_input(), form, bias, start)


@attrs.frozen(eq=False)
class SumOp(LazyOp):
    """The sum of two activations."""

    first: Activation
    second: Activation

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:
        """The sum, fused with whichever of the two is pending and can be."""
        # affine functions come last, because others, such as convolutions, also compute the sums
        by_preference = sorted((self.first, self.second), key=lambda one: one.op.as_affine() is not None)
        for one, other in zip(by_preference, reversed(by_preference), strict=True):
            fused = one.op.compute_added(runtime, form, other, sums) if one.is_pending else None
            if fused is not None:
                return fused
        ones, zeros = form.constants()
        out = runtime.buffers.take(form)
        first, second = self.first.buffer().handle, self.second.buffer().handle
        runtime.kernels.combine(first, second, out.handle, None, ones, ones, zeros, runtime.threads)
        return out


@attrs.frozen(eq=False)
class AffineOp(LazyOp):
    """scale·x + shift by channel: batch norm, or a bias.

    Attributes:
        x: the input.
        scale: float32, (channels,).
        shift: float32, (channels,).
        mean: float32, (channels,), about which the gradient's second sum is computed.
        backward: passes the gradient on to ``x``, given the gradient and its sums by channel, which are those of
            :meth:`sparsecore_cpu.gradients.GradientTerm.write_masked`.
        bias: the weight that ``shift`` is, where the function does nothing but add it; a batch norm of the output is
            then computed from ``x``.
    """

    x: Activation
    scale: Floats
    shift: Floats
    mean: Floats
    backward: Callable[[Buffer, Sums], None]
    bias: WeightSource | None = None

    @classmethod
    def identity(cls, x: Activation) -> "AffineOp":
        """The activation itself."""
        ones, zeros = x.form.constants()
        return cls(x, ones, zeros, zeros, lambda gradient, _: x.gradient.ready.append(gradient))

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The outputs in one pass, of a bias with the linear layer that it belongs to."""
        biased = self._biased(runtime, form, None)
        if biased is not None:
            return biased
        out = runtime.buffers.take(form)
        runtime.kernels.affine(self.x.buffer().handle, out.handle, self.scale, self.shift, runtime.threads)
        return out

    def compute_added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The sum in the same pass, together with the other activation where that is an affine function, too."""
        biased = self._biased(runtime, form, other)
        if biased is not None:
            return biased
        out = runtime.buffers.take(form)
        second = (other.op.as_affine() if other.is_pending else None) or AffineOp.identity(other)
        factors = (self.scale, second.scale, self.shift + second.shift)
        one, two = self.x.buffer().handle, second.x.buffer().handle
        runtime.kernels.combine(one, two, out.handle, None, *factors, runtime.threads)
        return out

    def as_affine(self) -> "AffineOp":
        """Itself."""
        return self

    def pass_on(self, runtime: Runtime, gradient: Buffer) -> None:
        """Pass the gradient of the outputs on, after its sums by channel are computed.

        Args:
            runtime: kernels, threads and memory.
            gradient: the loss's gradient for the outputs.
        """
        sums = np.zeros((gradient.form.channels, 2))
        # the gradient of a bias needs no inputs, which may not even be in memory
        x = gradient if self.bias is not None else self.x.buffer()
        runtime.kernels.gradient_sums(gradient.handle, x.handle, self.mean, sums, runtime.threads)
        self.backward(gradient, sums)

    def _biased(self, runtime: Runtime, form: Form, other: Activation | None) -> Buffer | None:
        """The outputs plus another activation in one pass with ``x``; None where ``x`` is in memory, or cannot."""
        if self.bias is None or not self.x.is_pending:
            return None
        return self.x.op.compute_biased(runtime, form, self.shift, other)


@attrs.frozen(eq=False)
class ReluOp(LazyOp):
    """max(scale·x + shift, 0) by channel."""

    inner: AffineOp

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """Both functions in one pass."""
        out, inner = runtime.buffers.take(form), self.inner
        runtime.kernels.affine_relu(inner.x.buffer().handle, out.handle, inner.scale, inner.shift, runtime.threads)
        return out

    def as_kernel_input(self, activation: Activation) -> KernelInput | None:
        """The input of the affine function, of which convolutions compute both functions as they read it."""
        x = self.inner.x.buffer()
        if x.form.features:
            return None
        handle = _kernels.Input.rectified(x.handle, self.inner.scale, self.inner.shift)
        return KernelInput(x.form, handle, activation.buffer, (x,))
