"""Activations that are computed when they are asked for, by then knowing what they are asked for.

So a sum of two tensors is one convolution that starts from the other tensor, and batch norm and relu are one pass.
"""

from collections.abc import Callable
from typing import Protocol

import attrs
import numpy as np

from sparsecore_cpu import _kernels
from sparsecore_cpu.convolution import Convolution, Reading
from sparsecore_cpu.gradients import Gradient
from sparsecore_cpu.workspace import Buffer, Floats, Form, Runtime, Sums

ENOUGH = 16.0
"""A mean so many times the deviation squared takes too many digits of a sum of squares: then it is summed again."""


class Source(Protocol):
    """How an activation comes about."""

    def computed(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:
        """The activation; ``sums`` gets those of the entries and of their squares by channel, where that is cheap."""
        ...

    def added(self, runtime: Runtime, form: Form, other: "Activation", sums: Sums | None) -> Buffer | None:
        """The same plus another activation in one go, or None where there is no such way."""
        ...

    def affine(self) -> "Affine | None":
        """Itself where it is one: relu goes along with it."""
        ...

    def reading(self, activation: "Activation") -> Reading | None:
        """What a convolution reads that makes the activation on the way, or None where it can't."""
        ...


@attrs.define(eq=False)
class Activation:
    """One tensor of a network in one step.

    Attributes:
        runtime: that computes it.
        form: of it.
        source: how it comes about.
        differentiable: False for the network's input, whose gradient nobody needs.
        gradient: the loss's, so far.
    """

    runtime: Runtime
    form: Form
    source: Source
    differentiable: bool = True
    gradient: Gradient = attrs.field(factory=Gradient)
    _buffer: Buffer | None = None

    @property
    def pending(self) -> bool:
        """Whether it has not been computed yet."""
        return self._buffer is None

    def buffer(self) -> Buffer:
        """Its memory, computed now at the latest; never written to again."""
        if self._buffer is None:
            self._buffer = self.source.computed(self.runtime, self.form, None)
        return self._buffer

    def reading(self) -> Reading:
        """As convolutions read it, which need not be computed before."""
        on_the_way = self.source.reading(self) if self.pending else None
        return on_the_way or Reading.plain(self.buffer())

    def moments(self) -> tuple[Sums, Sums]:
        """Mean and variance by channel, (channels,)."""
        if self._buffer is None:
            sums = np.zeros((self.form.channels, 2))
            self._buffer = self.source.computed(self.runtime, self.form, sums)
            mean, square = sums.T / self.form.entries
            variance = square - mean**2
            # sums are zero where the source had no cheap way; then and where digits were lost they are taken again
            if np.all(square > 0) and np.all(mean**2 <= ENOUGH * variance):
                return mean, variance
        return self._moments_again()

    def _moments_again(self) -> tuple[Sums, Sums]:
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
class Given:
    """Data, as it came."""

    buffer: Buffer

    def computed(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """See :class:`Source`."""
        return self.buffer

    def added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> None:
        """There is no way."""

    def affine(self) -> None:
        """It is none."""

    def reading(self, activation: Activation) -> None:
        """It can't."""


@attrs.frozen(eq=False)
class Convolved:
    """The outputs of a convolution or a linear layer."""

    convolution: Convolution
    x: Activation

    def computed(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:
        """See :class:`Source`."""
        return self.convolution.forward(runtime, self.x.reading(), form, None, sums)

    def added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> Buffer:
        """The convolution starts from the other activation."""
        start = other.buffer()
        return self.convolution.forward(runtime, self.x.reading(), form, start, sums)

    def affine(self) -> None:
        """It is none."""

    def reading(self, activation: Activation) -> None:
        """It can't."""


@attrs.frozen(eq=False)
class Sum:
    """Of two activations."""

    first: Activation
    second: Activation

    def computed(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:
        """In one go with whichever of the two is not there yet."""
        for one, other in ((self.first, self.second), (self.second, self.first)):
            both = one.source.added(runtime, form, other, sums) if one.pending else None
            if both is not None:
                return both
        ones, zeros = form.constants()
        out = runtime.buffers.take(form)
        first, second = self.first.buffer().handle, self.second.buffer().handle
        runtime.kernels.combine(first, second, out.handle, None, ones, ones, zeros, runtime.threads)
        return out

    def added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> None:
        """There is no way."""

    def affine(self) -> None:
        """It is none."""

    def reading(self, activation: Activation) -> None:
        """It can't."""


@attrs.frozen(eq=False)
class Affine:
    """scale·x + shift by channel: batch norm, or a bias.

    Attributes:
        x: what it is of.
        scale: (channels,).
        shift: (channels,).
        mean: about which the gradient's second sum is taken.
        undo: what takes the gradient on to ``x``, given it and its sums by channel (:class:`Mask`).
    """

    x: Activation
    scale: Floats
    shift: Floats
    mean: Floats
    undo: Callable[[Buffer, Sums], None]

    def computed(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """See :class:`Source`."""
        out = runtime.buffers.take(form)
        runtime.kernels.affine(self.x.buffer().handle, out.handle, self.scale, self.shift, runtime.threads)
        return out

    def rectified(self) -> "Rectified":
        """The same, and zero where it is negative."""
        return Rectified(self)

    def added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> None:
        """There is no way."""

    def affine(self) -> "Affine":
        """This."""
        return self

    def reading(self, activation: Activation) -> None:
        """It can't."""

    @classmethod
    def identity(cls, x: Activation) -> "Affine":
        """The activation itself."""
        ones, zeros = x.form.constants()
        return cls(x, ones, zeros, zeros, lambda gradient, _: x.gradient.ready.append(gradient))


@attrs.frozen(eq=False)
class Rectified:
    """max(scale·x + shift, 0)."""

    inner: Affine

    def computed(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """See :class:`Source`."""
        out, inner = runtime.buffers.take(form), self.inner
        runtime.kernels.affine_relu(inner.x.buffer().handle, out.handle, inner.scale, inner.shift, runtime.threads)
        return out

    def added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> None:
        """There is no way."""

    def affine(self) -> None:
        """It is none."""

    def reading(self, activation: Activation) -> Reading | None:
        """See :class:`Source`."""
        x = self.inner.x.buffer()
        if x.form.features:
            return None
        handle = _kernels.Read.rectified(x.handle, self.inner.scale, self.inner.shift)
        return Reading(x.form, handle, activation.buffer, (x,))
