"""Linear layers that are computed from numbers rounded to bfloat16, and what NumPy computes for them."""

from typing import Any

import attrs
import numpy as np
from cpu_examples import array_of, buffer_of, drawn
from linear_definition import LinearDefinition

from sparsecore_cpu.linear import SparseLinear, sparsity_pattern
from sparsecore_cpu.runtime import KernelInput, Runtime


@attrs.frozen(eq=False)
class RoundedLayer(LinearDefinition):
    """A sparse matrix, inputs, and gradients of outputs."""

    shape: tuple[int, int]
    positions: Any
    values: Any
    x: Any
    gradient: Any

    @classmethod
    def of(cls, active: Any, batch: int) -> "RoundedLayer":
        """With normal numbers, and weights where ``active``, (outputs, inputs), is true."""
        positions, (outputs, inputs) = np.flatnonzero(active), active.shape
        values = drawn(2, len(positions))
        return cls(active.shape, positions, values, drawn(3, batch, inputs), drawn(4, batch, outputs))

    @property
    def integers(self) -> "RoundedLayer":
        """The same with whole numbers from -4 to 4, whose products and sums are exact."""
        whole = {name: np.clip(np.rint(getattr(self, name) * 2), -4, 4) for name in ("values", "x", "gradient")}
        return attrs.evolve(self, **whole)

    @property
    def rounded(self) -> "RoundedLayer":
        near = {name: nearest_bfloat16(getattr(self, name)) for name in ("values", "x", "gradient")}
        return attrs.evolve(self, **near)


def nearest_bfloat16(array: Any) -> Any:
    """The nearest bfloat16 numbers, of two that are as near the even one."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def computed(machine: Runtime, layer: RoundedLayer, threads: int = 1) -> tuple[Any, ...]:
    """Outputs, outputs that are added to others, both gradients, and each gradient alone."""
    pattern = sparsity_pattern(layer.shape, layer.positions)
    kernels = SparseLinear(machine.kernels, pattern, threads, rounded=True)
    x, gradient, out, made, alone = (
        buffer_of(machine, array) for array in (layer.x, layer.gradient, layer.gradient, layer.x, layer.x)
    )
    read, given = KernelInput.plain(x), KernelInput.plain(gradient)
    sums = np.zeros((layer.shape[0], 2))
    kernels.forward(read, layer.values, out, sums=sums)
    outputs = array_of(out).copy()
    kernels.forward(read, layer.values, out, add=out)
    by_weight = kernels.backward(read, given, layer.values, made)[0]
    kernels.backward_input(given, layer.values, alone)
    single = kernels.backward_weight(read, given)
    return outputs, array_of(out), sums, by_weight, single, array_of(made), array_of(alone)
