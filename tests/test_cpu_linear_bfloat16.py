"""Sparse linear layers whose kernels round what they multiply to bfloat16: what NumPy computes from rounded numbers."""

from typing import Any

import attrs
import numpy as np
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, MACHINES, array_of, buffer_of, drawn

from sparsecore.host.weights import WeightView
from sparsecore_cpu.linear import SparseLinear, linear_kernels, sparsity_pattern
from sparsecore_cpu.runtime import KernelInput, Runtime
from sparsecore_cpu.weighted import ListCache
from sparsecore_cpu.window import Window

SHAPES = [(1, 1), (10, 7), (130, 300), (2, 2**16 + 300)]
on_each = pytest.mark.parametrize("machine", MACHINES, ids=[machine.kernels.name for machine in MACHINES])


@attrs.frozen(eq=False)
class Layer:
    """A sparse matrix, inputs, and gradients of outputs."""

    shape: tuple[int, int]
    positions: Any
    values: Any
    x: Any
    gradient: Any

    @classmethod
    def of(cls, shape: tuple[int, int], batch: int, density: float, pairs: bool = False) -> "Layer":
        outputs, inputs = shape
        rng = np.random.default_rng(1)
        active = rng.random((outputs, inputs)) < density
        if pairs:
            active = np.repeat(active[:, ::2], 2, axis=1)[:, : inputs - inputs % 2]
            active = np.pad(active, ((0, 0), (0, inputs % 2)))
        positions = np.flatnonzero(active)
        return cls(shape, positions, drawn(2, len(positions)), drawn(3, batch, inputs), drawn(4, batch, outputs))

    @property
    def integers(self) -> "Layer":
        """The same with whole numbers from -4 to 4, whose products and sums are exact."""
        whole = {name: np.clip(np.rint(getattr(self, name) * 2), -4, 4) for name in ("values", "x", "gradient")}
        return attrs.evolve(self, **whole)

    @property
    def rounded(self) -> "Layer":
        near = {name: nearest_bfloat16(getattr(self, name)) for name in ("values", "x", "gradient")}
        return attrs.evolve(self, **near)

    @property
    def matrix(self) -> Any:
        dense = np.zeros(self.shape)
        dense.flat[self.positions] = self.values
        return dense

    @property
    def outputs(self) -> Any:
        return self.x.astype(float) @ self.matrix.T

    @property
    def by_weight(self) -> Any:
        return (self.gradient.astype(float).T @ self.x).reshape(-1)[self.positions]

    @property
    def by_input(self) -> Any:
        return self.gradient.astype(float) @ self.matrix


def nearest_bfloat16(array: Any) -> Any:
    """The nearest bfloat16 numbers, of two that are as near the even one."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def computed(machine: Runtime, layer: Layer, threads: int = 1) -> tuple[Any, ...]:
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


@on_each
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_numbers_that_bfloat16_holds_are_exact(
    machine: Runtime, shape: tuple[int, int], pairs: bool
) -> None:
    for batch, density in ((1, 0.02), (100, 0.0), (100, 0.1), (300, 0.4), (37, 1.0)):
        if shape[1] > 2**16 and density > 0.02:
            continue
        layer = Layer.of(shape, batch, density, pairs).integers
        outputs, twice, sums, by_weight, single, by_input, alone = computed(machine, layer)
        np.testing.assert_array_equal(outputs, layer.outputs)
        np.testing.assert_array_equal(twice, 2 * layer.outputs)
        np.testing.assert_allclose(sums, np.stack([layer.outputs.sum(0), (layer.outputs**2).sum(0)], 1), rtol=1e-6)
        for made, expected in ((by_weight, layer.by_weight), (single, layer.by_weight)):
            np.testing.assert_array_equal(made, expected)
        for made, expected in ((by_input, layer.by_input), (alone, layer.by_input)):
            np.testing.assert_array_equal(made, expected)


@on_each
@pytest.mark.parametrize("pairs", [False, True])
def test_other_numbers_are_rounded_once_and_only_where_the_processor_multiplies_rounded_numbers(
    machine: Runtime, pairs: bool
) -> None:
    for vectors in range(1, 12):
        layer = Layer.of((50, 90), vectors * machine.kernels.lanes - 3, 0.2, pairs)
        read = layer.rounded if linear_kernels(machine.kernels.name, True).rounded else layer
        outputs, _, _, by_weight, single, by_input, alone = computed(machine, layer)
        for made, expected in (
            (outputs, read.outputs), (by_weight, read.by_weight), (single, read.by_weight),
            (by_input, layer.by_input), (alone, layer.by_input),
        ):  # fmt: skip
            np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-4)


@on_each
@pytest.mark.parametrize("pairs", [False, True])
def test_rounded_results_are_equal_to_the_last_bit_for_every_number_of_threads(machine: Runtime, pairs: bool) -> None:
    for batch in (40, 700):
        layer = Layer.of((300, 500), batch, 0.1, pairs)
        alone = computed(machine, layer)
        for one, other in zip(alone, computed(machine, layer, 3), strict=True):
            np.testing.assert_array_equal(one, other)


def test_layers_between_images_in_bfloat16_round_and_others_do_not() -> None:
    weight = WeightView((3, 4), np.array([1, 5]), np.ones(2, np.float32), np.zeros(2, np.float32))
    for machines, rounded in ((HALVES, True), (MACHINES, False)):
        for machine in machines:
            kernels = ListCache().kernels(machine, weight, Window())
            assert isinstance(kernels, SparseLinear)
            assert kernels.rounded is rounded


@pytest.mark.parametrize(("activations", "rounded"), [("float32", False), (np.float32, False), ("uint16", True)])
def test_runtimes_round_only_if_images_are_stored_in_bfloat16(activations: Any, rounded: bool) -> None:
    assert Runtime.of(1, activations).buffers.stores_bfloat16 is rounded
