"""Gradients as sums of terms that are only computed when all of them are known.

So the last of them can go on from the others' sum, and take relu's mask and batch norm's sums along.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs
import numpy as np

from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.convolution import Convolution, Reading
from sparsecore_cpu.workspace import Buffer, Floats, Form, Runtime, Sums


class Term(Protocol):
    """What one operation contributes to the gradient of its input."""

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Out = add + this."""
        ...

    def write_masked(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask) -> Sums:
        """The same where the mask is; the sums by channel of the outcome, and of it times the mask's centred input."""
        ...

    def reading(self, runtime: Runtime) -> Reading | None:
        """What a convolution reads that makes this on the way, or None where it can't."""
        ...


@attrs.frozen(eq=False)
class ThroughConvolution:
    """The gradient of a convolution's outputs, on its way to the inputs; the weights' are computed in passing.

    Attributes:
        convolution: the layer.
        x: its input.
        gradient: of its outputs.
    """

    convolution: Convolution
    x: Reading
    gradient: Reading

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """See :class:`Term`."""
        self.convolution.backward(runtime, self.x, self.gradient, out, add, None)

    def write_masked(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask) -> Sums:
        """See :class:`Term`."""
        return self.convolution.backward(runtime, self.x, self.gradient, out, add, mask)

    def reading(self, runtime: Runtime) -> None:
        """It can't."""


@attrs.frozen(eq=False)
class Combined:
    """by_gradient·gradient + by_x·x + constant, by channel: batch norm's; or a gradient as it is."""

    gradient: Buffer
    x: Buffer
    by_gradient: Floats
    by_x: Floats
    constant: Floats

    @classmethod
    def unchanged(cls, gradient: Buffer) -> "Combined":
        """The gradient itself."""
        ones, zeros = gradient.form.constants()
        return cls(gradient, gradient, ones, zeros, zeros)

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """See :class:`Term`."""
        runtime.kernels.combine(
            self.gradient.handle,
            self.x.handle,
            out.handle,
            add.handle if add else None,
            self.by_gradient,
            self.by_x,
            self.constant,
            runtime.threads,
        )

    def write_masked(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask) -> Sums:
        """See :class:`Term`."""
        self.write(runtime, out, add)
        return _masked(runtime, out, mask)

    def reading(self, runtime: Runtime) -> Reading | None:
        """See :class:`Term`."""
        if self.x.form.features:
            return None
        factors = (self.by_gradient, self.by_x, self.constant)
        handle = _kernels.Read.combined(self.gradient.handle, self.x.handle, *factors)
        return Reading(
            self.x.form, handle, lambda: _written(runtime, self.x.form, None, [self]), (self.gradient, self.x)
        )


@attrs.frozen(eq=False)
class Spread:
    """The gradient of the mean over an image's pixels."""

    features: Buffer

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """See :class:`Term`."""
        runtime.kernels.spread(self.features.handle, out.handle, add.handle if add else None, runtime.threads)

    def write_masked(self, runtime: Runtime, out: Buffer, add: Buffer | None, mask: Mask) -> Sums:
        """See :class:`Term`."""
        self.write(runtime, out, add)
        return _masked(runtime, out, mask)

    def reading(self, runtime: Runtime) -> None:
        """It can't."""


@attrs.define(eq=False)
class Gradient:
    """Of one activation, while its operations contribute to it.

    Attributes:
        ready: contributions that are there already and may be somebody else's too: never written to.
        terms: those that are still to be computed.
    """

    ready: list[Buffer] = attrs.field(factory=list)
    terms: list[Term] = attrs.field(factory=list)

    def __bool__(self) -> bool:
        return bool(self.ready or self.terms)

    def total(self, runtime: Runtime, form: Form) -> Buffer:
        """The sum; where that is but one contribution, the very buffer."""
        start, terms = self._taken()
        return _written(runtime, form, start, terms) if terms or start is None else start

    def reading(self, runtime: Runtime, form: Form) -> Reading:
        """The sum as convolutions read it."""
        alone = self.terms[0].reading(runtime) if len(self.terms) == 1 and not self.ready else None
        if alone is None:
            return Reading.plain(self.total(runtime, form))
        self.terms = []
        return alone

    def masked(self, runtime: Runtime, form: Form, mask: Mask) -> tuple[Buffer, Sums]:
        """The sum where the mask is; the sums by channel of the outcome, and of it times the centred input."""
        start, terms = self._taken()
        if start is not None and not terms:
            terms, start = [Combined.unchanged(start)], None
        *before, last = terms
        # what was written here is nobody else's: the last term goes on in the same memory
        start = _written(runtime, form, start, before) if before else start
        out = start if before and start else runtime.buffers.take(form)
        return out, last.write_masked(runtime, out, start, mask)

    def _taken(self) -> tuple[Buffer | None, list[Term]]:
        # afterwards nothing here holds on to the buffers, which may then serve again
        ready, terms = self.ready, self.terms
        self.ready, self.terms = [], []
        return (ready[0] if ready else None), [*map(Combined.unchanged, ready[1:]), *terms]


def _written(runtime: Runtime, form: Form, start: Buffer | None, terms: Sequence[Term]) -> Buffer:
    out = runtime.buffers.take(form)
    for term in terms:
        term.write(runtime, out, start)
        start = out
    return out


def _masked(runtime: Runtime, out: Buffer, mask: Mask) -> Sums:
    sums = np.zeros((out.form.channels, 2))
    runtime.kernels.masked(out.handle, out.handle, mask, sums, runtime.threads)
    return sums
