"""Convolutions with the active weights of a layer: outputs, and both gradients."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.runtime import Buffer, Floats, KernelInput, Strides, Sums
from sparsecore_cpu.weight_lists import LayerLists


@attrs.frozen(eq=False)
class LayerKernels:
    """The kernels of one convolution, or of a linear layer as one; implements :class:`WeightKernels`.

    Attributes:
        kernels: the kernels of one instruction set.
        lists: the layer's weight lists.
    """

    kernels: _kernels.Kernels
    lists: LayerLists

    def forward(
        self, x: KernelInput, values: NDArray[Any], out: Buffer, add: Buffer | None = None, sums: Sums | None = None
    ) -> None:
        """Write the outputs, plus ``add``."""
        weights = self.lists.forward(self._strides(x), values)
        start = add.handle if add else None
        self.kernels.convolve(x.handle, out.handle, start, weights.handle, weights.steps, sums, self.lists.threads)

    def forward_biased(
        self,
        x: KernelInput,  # noqa: ARG002
        values: NDArray[Any],  # noqa: ARG002
        bias: Floats,  # noqa: ARG002
        out: Buffer,  # noqa: ARG002
        add: Buffer | None = None,  # noqa: ARG002
    ) -> bool:
        """Return False: a bias takes a pass of its own."""
        return False

    def backward_weight(self, x: KernelInput, gradient: KernelInput) -> Floats:
        """Return the gradients of the active weights."""
        weights = self.lists.forward(self._strides(x), None)
        listed, threads = np.empty(len(weights.order), np.float32), self.lists.threads
        self.kernels.weight_gradient(x.handle, gradient.handle, weights.handle, weights.steps, listed, threads)
        return weights.by_entry(listed, threads)

    def backward_input(
        self,
        gradient: KernelInput,
        values: NDArray[Any],
        out: Buffer,
        add: Buffer | None = None,
        mask: Mask | None = None,
    ) -> Sums:
        """Write the gradient of the inputs, plus ``add``, where the mask is."""
        start, threads, sums = add.handle if add else None, self.lists.threads, np.zeros((out.form.channels, 2))
        for weights in self.lists.backward(self._strides(gradient), values):
            read = (gradient.handle, out.handle, start, weights.handle, weights.steps)
            if mask is None:
                self.kernels.convolve(*read, None, threads)
            else:
                self.kernels.convolve_masked(*read, mask, sums, threads)
        return sums

    def backward(
        self,
        x: KernelInput,
        gradient: KernelInput,
        values: NDArray[Any],
        out: Buffer,
        add: Buffer | None = None,
        mask: Mask | None = None,
    ) -> tuple[Floats, Sums]:
        """Compute both gradients."""
        if not self.lists.window.keeps(out.form, gradient.form):
            return self.backward_weight(x, gradient), self.backward_input(gradient, values, out, add, mask)
        weights, lists = (
            self.lists.forward(self._strides(x), None),
            self.lists.backward(self._strides(gradient), values),
        )
        listed, sums = np.empty(len(weights.order), np.float32), np.zeros((out.form.channels, 2))
        inputs = (x.handle, gradient.handle, weights.handle, self.lists.window.stride[0], listed)
        behind, start = [(one.handle, one.steps) for one in lists], add.handle if add else None
        self.kernels.backward(*inputs, out.handle, start, behind, mask, sums, self.lists.threads)
        return weights.by_entry(listed, self.lists.threads), sums

    def _strides(self, x: KernelInput) -> Strides:
        return Strides.of(x.form, self.kernels.lanes)
