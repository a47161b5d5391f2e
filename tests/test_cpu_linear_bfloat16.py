"""Sparse linear layers whose kernels round what they multiply to bfloat16: what NumPy computes from rounded numbers."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, MACHINES
from rounded_layers import RoundedLayer, computed

from sparsecore.host.weights import WeightView
from sparsecore_cpu.linear import SparseLinear, linear_kernels
from sparsecore_cpu.runtime import Runtime
from sparsecore_cpu.weighted import ListCache
from sparsecore_cpu.window import Window

SHAPES = [(1, 1), (10, 7), (130, 300), (2, 2**16 + 300)]
on_each = pytest.mark.parametrize("machine", MACHINES, ids=[machine.kernels.name for machine in MACHINES])


def layer_of(shape: tuple[int, int], batch: int, density: float, pairs: bool = False) -> RoundedLayer:
    """Weights at random positions, or pairs of them."""
    outputs, inputs = shape
    active = np.random.default_rng(1).random((outputs, inputs)) < density
    if pairs:
        active = np.repeat(active[:, ::2], 2, axis=1)[:, : inputs - inputs % 2]
        active = np.pad(active, ((0, 0), (0, inputs % 2)))
    return RoundedLayer.of(active, batch)


@on_each
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_numbers_that_bfloat16_holds_are_exact(
    machine: Runtime, shape: tuple[int, int], pairs: bool
) -> None:
    for batch, density in ((1, 0.02), (100, 0.0), (100, 0.1), (300, 0.4), (37, 1.0)):
        if shape[1] > 2**16 and density > 0.02:
            continue
        layer = layer_of(shape, batch, density, pairs).integers
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
        layer = layer_of((50, 90), vectors * machine.kernels.lanes - 3, 0.2, pairs)
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
        layer = layer_of((300, 500), batch, 0.1, pairs)
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
