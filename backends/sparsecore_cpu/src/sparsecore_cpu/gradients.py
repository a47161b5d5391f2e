"""Lazily evaluated gradients of activations: sums of terms that are computed when all of them are known.

The last term continues from the sum of the others, and applies relu's mask and computes batch norm's sums in the same
pass. A single term that a convolution can compute as it reads is never written.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import attrs
import numpy as np

from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.runtime import Buffer, Floats, Form, KernelInput, Runtime, Sums
from sparsecore_cpu.weighted import WeightedLayer


class GradientTerm(ABC):
    """The contribution of one operation to the gradient of its input, computed when all contributions are known."""

    @abstractmethod
    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the term, plus ``add``, to ``out``.

        Args:
            runtime: kernels, threads and memory.
            out: the memory of the result, which may be that of ``add``.
            add: another gradient of the same form, if any.
        """

    def write_masked(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask) -> Sums:
        """Write the term, plus ``add``, where the mask is positive, and zero elsewhere.

        Args:
            runtime: kernels, threads and memory.
            out: the memory of the result, which may be that of ``add``.
            add: another gradient of the same form, if any.
            mask: that of the relu whose output this is the gradient of.

        Returns:
            The sums by channel of what was written and of its products with the mask's centered input, float64,
            (channels, 2).
        """
        self.write(runtime, out, add)
        sums = np.zeros((out.form.channels, 2))
        runtime.kernels.relu_backward(out.handle, out.handle, mask, sums, runtime.threads)
        return sums

    def as_kernel_input(self, runtime: Runtime) -> KernelInput | None:  # noqa: ARG002
        """An input that convolutions compute as they read it; None: this term cannot be fused."""
        return None


@attrs.frozen(eq=False)
class ConvolutionTerm(GradientTerm):
    """The gradient of a convolution's outputs, passed on to its inputs; writing it computes the weight's, too.

    Attributes:
        layer: the convolution, or linear layer.
        x: its input.
        gradient: the gradient of its outputs.
    """

    layer: WeightedLayer
    x: KernelInput
    gradient: KernelInput

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:  # noqa: ARG002
        """Write the gradient of the inputs, plus ``add``, and add to the weight's gradient."""
        self.layer.backward(self.x, self.gradient, out, add, None)

    def write_masked(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask) -> Sums:  # noqa: ARG002
        """The same where the mask is, in one pass."""
        return self.layer.backward(self.x, self.gradient, out, add, mask)


@attrs.frozen(eq=False)
class LinearTerm(GradientTerm):
    """by_gradient·gradient + by_x·x + constant by channel: the gradient of batch norm, or a gradient as it is.

    Attributes:
        gradient: the gradient of the operation's outputs.
        x: the operation's inputs, of the same form.
        by_gradient: float32, (channels,).
        by_x: float32, (channels,).
        constant: float32, (channels,).
    """

    gradient: Buffer
    x: Buffer
    by_gradient: Floats
    by_x: Floats
    constant: Floats

    @classmethod
    def unchanged(cls, gradient: Buffer) -> "LinearTerm":
        """The gradient itself."""
        ones, zeros = gradient.form.constants()
        return cls(gradient, gradient, ones, zeros, zeros)

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the combination, plus ``add``."""
        factors = (self.by_gradient, self.by_x, self.constant)
        start = add.handle if add else None
        runtime.kernels.combine(self.gradient.handle, self.x.handle, out.handle, start, *factors, runtime.threads)

    def as_kernel_input(self, runtime: Runtime) -> KernelInput | None:
        """Gradient and input, which convolutions combine as they read them."""
        if self.x.form.features:
            return None
        factors = (self.by_gradient, self.by_x, self.constant)
        handle = _kernels.Input.combined(self.gradient.handle, self.x.handle, *factors)
        form = self.x.form
        return KernelInput(form, handle, lambda: _sum(runtime, form, None, [self]), (self.gradient, self.x))


@attrs.frozen(eq=False)
class PoolTerm(GradientTerm):
    """The gradient of the mean over an image's pixels.

    Attributes:
        features: the gradient of the means, (images, channels).
    """

    features: Buffer

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write each feature's share to all pixels, plus ``add``."""
        runtime.kernels.pool_backward(self.features.handle, out.handle, add.handle if add else None, runtime.threads)


@attrs.frozen(eq=False)
class FlattenTerm(GradientTerm):
    """The gradient of images that were flattened to features.

    Attributes:
        features: the gradient of the features.
        channels_first: whether they are in the order channel, height, width.
    """

    features: Buffer
    channels_first: bool

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the features as images, plus ``add``."""
        start = add.handle if add else None
        runtime.kernels.unflatten(self.features.handle, out.handle, start, self.channels_first, runtime.threads)


@attrs.define(eq=False)
class LazyGradient:
    """The gradient of one activation, to which operations contribute.

    Attributes:
        ready: contributions in memory, which may be shared with other activations: never written to.
        terms: contributions that are yet to be computed.
    """

    ready: list[Buffer] = attrs.field(factory=list)
    terms: list[GradientTerm] = attrs.field(factory=list)

    def total(self, runtime: Runtime, form: Form) -> Buffer:
        """The sum of the contributions; they are released.

        Args:
            runtime: kernels, threads and memory.
            form: the form of the activation.

        Returns:
            New memory; or the very buffer of a single contribution that is in memory, not to be written to.

        Raises:
            RuntimeError: there is no contribution, or it has been released already.
        """
        start, terms = self._take()
        return _sum(runtime, form, start, terms) if terms or start is None else start

    def kernel_input(self, runtime: Runtime, form: Form) -> KernelInput:
        """The sum as the input of a convolution; the contributions are released like by :meth:`total`.

        Args:
            runtime: kernels, threads and memory.
            form: the form of the activation.

        Returns:
            A single term that can be fused, not yet computed; else the sum in memory.
        """
        fused = self.terms[0].as_kernel_input(runtime) if len(self.terms) == 1 and not self.ready else None
        if fused is None:
            return KernelInput.plain(self.total(runtime, form))
        self.terms = []
        return fused

    def masked(self, runtime: Runtime, form: Form, mask: Mask) -> tuple[Buffer, Sums]:
        """The sum where the mask is positive, and zero elsewhere; the contributions are released like by :meth:`total`.

        Args:
            runtime: kernels, threads and memory.
            form: the form of the activation.
            mask: that of the relu whose output this is the gradient of.

        Returns:
            New memory, and the sums of :meth:`GradientTerm.write_masked`.
        """
        start, terms = self._take()
        if start is not None and not terms:
            terms, start = [LinearTerm.unchanged(start)], None
        *before, last = terms
        # a sum that was written here is not shared: the last term is added in the same memory
        start = _sum(runtime, form, start, before) if before else start
        out = start if before and start else runtime.buffers.take(form)
        return out, last.write_masked(runtime, out, start, mask)

    def _take(self) -> tuple[Buffer | None, list[GradientTerm]]:
        if not self.ready and not self.terms:
            raise RuntimeError(
                "the gradient of an activation was asked for, and no operation has contributed to it; "
                "operations record what depends on their output, and read its gradient once"
            )
        # afterwards nothing here refers to the buffers, which may then be reused
        ready, terms = self.ready, self.terms
        self.ready, self.terms = [], []
        return (ready[0] if ready else None), [*map(LinearTerm.unchanged, ready[1:]), *terms]


def _sum(runtime: Runtime, form: Form, start: Buffer | None, terms: Sequence[GradientTerm]) -> Buffer:
    out = runtime.buffers.take(form)
    for term in terms:
        term.write(runtime, out, start)
        start = out
    return out
