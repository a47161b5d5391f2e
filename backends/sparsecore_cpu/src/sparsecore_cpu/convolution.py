"""Convolutions and linear layers: outputs, and both gradients."""

from collections.abc import Callable

import attrs
import numpy as np

from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.lists import Entries, Lists, Strides, WeightList, Window, border_behind
from sparsecore_cpu.workspace import Buffer, Floats, Form, Runtime, Sums


@attrs.frozen(eq=False)
class Reading:
    """What a convolution reads: an activation as it lies in memory, or what the kernels make of one on the way.

    Attributes:
        form: of the activation.
        handle: of the kernels.
        buffer: gives the activation itself, made now at the latest.
        kept: whose memory is read.
    """

    form: Form
    handle: _kernels.Read
    buffer: Callable[[], Buffer]
    kept: tuple[Buffer, ...]

    @classmethod
    def plain(cls, buffer: Buffer) -> "Reading":
        """As it lies in memory."""
        return cls(buffer.form, _kernels.Read(buffer.handle), lambda: buffer, (buffer,))


@attrs.frozen(eq=False)
class Convolution:
    """One layer's weights and window.

    Attributes:
        entries: the weights.
        window: stride and padding.
        lists: of the kernels.
    """

    entries: Entries
    window: Window
    lists: Lists

    def output(self, x: Form) -> Form:
        """The form of the outputs."""
        kernel = (*self.entries.shape, 1, 1)[2:4]
        height, width = (self.window.outputs(side, of) for side, of in zip((x.height, x.width), kernel, strict=True))
        return attrs.evolve(
            x, height=height, width=width, channels=self.entries.shape[0], border=0 if x.features else 1
        )

    def forward(self, runtime: Runtime, x: Reading, form: Form, add: Buffer | None, sums: Sums | None) -> Buffer:
        """Add + the convolution of ``x``."""
        x = bordered(runtime, x, self.window.padding)
        weights = self.lists.forward(self.entries, self.window, Strides.of(x.form, runtime.kernels.lanes))
        out = runtime.buffers.take(form)
        start = add.handle if add else None
        runtime.kernels.convolve(x.handle, out.handle, start, weights.handle, weights.steps, sums, runtime.threads)
        return out

    def backward_weight(self, runtime: Runtime, x: Reading, gradient: Reading) -> None:
        """Add the weights' gradients to theirs."""
        x, weights = self._places(runtime, x)
        listed = np.empty(len(weights.order), np.float32)
        runtime.kernels.weight_gradient(
            x.handle, gradient.handle, weights.handle, weights.steps, listed, runtime.threads
        )
        self._accumulate(runtime, weights, listed)

    def backward(
        self, runtime: Runtime, x: Reading, gradient: Reading, out: Buffer, add: Buffer | None, mask: Mask | None
    ) -> Sums:
        """The weights' gradients likewise; out = add + the input's, where the mask is.

        Returns: with a mask, the sums by channel of the outcome, and of it times the mask's centred input.
        """
        gradient = self._reached(runtime, gradient, out.form)
        lists = self.lists.backward(self.entries, self.window, Strides.of(gradient.form, runtime.kernels.lanes))
        start, sums = add.handle if add else None, np.zeros((out.form.channels, 2))
        if self.window.keeps(out.form, gradient.form):
            x, weights = self._places(runtime, x)
            listed, behind = np.empty(len(weights.order), np.float32), [(one.handle, one.steps) for one in lists]
            inputs = (x.handle, gradient.handle, weights.handle, self.window.stride, listed)
            runtime.kernels.backward(*inputs, out.handle, start, behind, mask, sums, runtime.threads)
            self._accumulate(runtime, weights, listed)
            return sums
        self.backward_weight(runtime, x, gradient)
        for weights in lists:
            read = (gradient.handle, out.handle, start, weights.handle, weights.steps)
            if mask is None:
                runtime.kernels.convolve(*read, None, runtime.threads)
            else:
                runtime.kernels.convolve_masked(*read, mask, sums, runtime.threads)
        return sums

    def _accumulate(self, runtime: Runtime, weights: WeightList, listed: Floats) -> None:
        self.entries.accumulate(weights.by_entry(listed, runtime.threads))

    def _places(self, runtime: Runtime, x: Reading) -> tuple[Reading, WeightList]:
        x = bordered(runtime, x, self.window.padding)
        return x, self.lists.gradients(self.entries, self.window, Strides.of(x.form, runtime.kernels.lanes))

    def _reached(self, runtime: Runtime, gradient: Reading, x: Form) -> Reading:
        kernel = (*self.entries.shape, 1, 1)[2:4]
        made, sides = (gradient.form.height, gradient.form.width), (x.height, x.width)
        needed = (border_behind(self.window, *of) for of in zip(kernel, made, sides, strict=True))
        return bordered(runtime, gradient, max(needed))


def bordered(runtime: Runtime, reading: Reading, border: int) -> Reading:
    """The same activation, in a buffer with so wide a border at least."""
    if border <= reading.form.border or reading.form.features:
        return reading
    wider = runtime.buffers.take(attrs.evolve(reading.form, border=border))
    wider.fill(reading.buffer().inside)
    return Reading.plain(wider)
