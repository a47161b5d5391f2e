"""Linear layers of any density: outputs, and both gradients, computed from the positions of the active weights.

The kernels read values and write gradients in the order of the positions, so that no step copies them.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import Mask, SparsityPattern
from sparsecore_cpu.runtime import Buffer, Floats, KernelInput, Sums


def sparsity_pattern(shape: tuple[int, ...], positions: NDArray[np.integer], threads: int = 1) -> SparsityPattern:
    """The positions as the kernels of linear layers read them.

    Args:
        shape: (out, in) of the weight.
        positions: row-major positions of the active entries, ascending, (count,).
        threads: how many threads read them, 1 to 1024.

    Raises:
        ValueError: a position is outside the shape, or they do not ascend.
    """
    out, into = shape
    dtype: Any = np.int32 if positions.dtype == np.int32 else np.int64  # no copy of either
    return SparsityPattern(np.ascontiguousarray(positions, dtype), out, into, threads)


@lru_cache
def linear_kernels(name: str, rounded: bool = False) -> _kernels.LinearKernels:
    """The kernels of linear layers for one instruction set.

    Args:
        name: of the instruction set, such as avx512.
        rounded: whether numbers may be rounded to bfloat16 before they are multiplied, see :class:`SparseLinear`.
    """
    return _kernels.LinearKernels(name, rounded)


def _empty(count: int) -> Floats:
    return np.empty(count, np.float32)


@attrs.frozen(eq=False)
class SparseLinear:
    """The kernels of one linear layer; implements :class:`WeightKernels`.

    Attributes:
        kernels: all kernels of one instruction set.
        pattern: the positions of the active weights.
        threads: how many threads compute.
        allocate: returns memory for so many gradients.
        rounded: whether outputs and the weights' gradients are sums of products of numbers rounded to bfloat16, where
            the processor has instructions for these. Sums are in float32, and so is all of the inputs' gradient, except
            where the processor has AMX and the weights are whole blocks of 16x32.
    """

    kernels: _kernels.Kernels
    pattern: SparsityPattern
    threads: int
    allocate: Callable[[int], Floats] = _empty
    rounded: bool = False

    def forward(
        self, x: KernelInput, values: NDArray[Any], out: Buffer, add: Buffer | None = None, sums: Sums | None = None
    ) -> None:
        """Write the outputs, plus ``add``."""
        start = add.handle if add else None
        self._linear.forward(_read(x), out.handle, start, self.pattern, values, sums, self.threads)

    def forward_biased(
        self, x: KernelInput, values: NDArray[Any], bias: Floats, out: Buffer, add: Buffer | None = None
    ) -> bool:
        """Write the outputs, plus the bias and ``add``; returns True."""
        start = add.handle if add else None
        self._linear.forward(_read(x), out.handle, start, self.pattern, values, None, self.threads, bias)
        return True

    def backward_weight(self, x: KernelInput, gradient: KernelInput) -> Floats:
        """Return the gradients of the active weights."""
        gradients = self.allocate(self.pattern.count)
        self._linear.weight_gradient(_read(x), _read(gradient), self.pattern, gradients, self.threads)
        return gradients

    def backward_input(
        self,
        gradient: KernelInput,
        values: NDArray[Any],
        out: Buffer,
        add: Buffer | None = None,
        mask: Mask | None = None,
    ) -> Sums:
        """Write the gradient of the inputs, plus ``add``, where the mask is."""
        start = add.handle if add else None
        self._linear.input_gradient(_read(gradient), self.pattern, values, out.handle, start, self.threads)
        return self._masked(out, mask)

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
        gradients, start = self.allocate(self.pattern.count), add.handle if add else None
        read = (_read(x), _read(gradient))
        self._linear.backward(*read, self.pattern, values, gradients, out.handle, start, self.threads)
        return gradients, self._masked(out, mask)

    @property
    def _linear(self) -> _kernels.LinearKernels:
        return linear_kernels(self.kernels.name, self.rounded)

    def _masked(self, out: Buffer, mask: Mask | None) -> Sums:
        sums = np.zeros((out.form.channels, 2))
        if mask is not None:
            self.kernels.relu_backward(out.handle, out.handle, mask, sums, self.threads)
        return sums


def _read(x: KernelInput) -> _kernels.Activation:
    # features are always read as they lie in memory
    return x.buffer().handle
