"""Gradients of weights on the host backends: what is added to them, and which memory they are first written to."""

from typing import Any

import numpy as np
import pytest

from sparsecore.host.tied_weights import TiedWeight
from sparsecore.host.weights import WeightView


def view(count: int = 3, dtype: Any = np.float32) -> WeightView:
    values = np.arange(count, dtype=dtype)
    return WeightView((count,), np.arange(count), values, np.full(count, np.nan, dtype))


def test_a_gradient_that_was_reset_is_what_is_added_whatever_its_memory_held() -> None:
    weight = view()
    weight.reset_gradient()
    weight.add_gradient(np.array([1.0, 2.0, 3.0]))
    weight.add_gradient(np.array([0.5, 0.0, -3.0]))
    np.testing.assert_array_equal(weight.finish_gradient(), [1.5, 2, 0])
    assert weight.finish_gradient() is weight.gradient


def test_a_gradient_to_which_nothing_was_added_is_zero() -> None:
    weight = view()
    weight.reset_gradient()
    np.testing.assert_array_equal(weight.finish_gradient(), np.zeros(3))


def test_memory_is_lent_for_the_first_gradient_after_a_reset_alone() -> None:
    weight = view()
    assert weight.gradient_memory() is None
    weight.reset_gradient()
    own = weight.gradient_memory()
    assert own is weight.gradient
    own[:] = [4, 5, 6]
    weight.add_gradient(own)
    assert weight.gradient_memory() is None
    weight.add_gradient(np.ones(3))
    np.testing.assert_array_equal(weight.gradient, [5, 6, 7])
    assert TiedWeight(weight, (2, 4), 1).gradient_memory() is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_layers_write_gradients_in_place_and_add_those_of_later_uses(dtype: Any) -> None:
    pytest.importorskip("sparsecore_cpu._kernels")
    from cpu_examples import MACHINES, buffer_of, drawn

    from sparsecore_cpu.runtime import KernelInput
    from sparsecore_cpu.weighted import ListCache, WeightedLayer
    from sparsecore_cpu.window import Window

    machine, positions = MACHINES[0], np.array([0, 3, 7, 10])
    gradient = np.full(4, np.nan, dtype)
    weight = WeightView((4, 3), positions, np.ones(4, np.float32), gradient)
    x, given = drawn(1, 5, 3), drawn(2, 5, 4)
    expected = (given.T.astype(float) @ x).reshape(-1)[positions]
    layer = WeightedLayer(machine, weight, Window(), ListCache())
    read = [KernelInput.plain(buffer_of(machine, array)) for array in (x, given)]
    weight.reset_gradient()
    for uses in (1, 2):
        layer.backward_weight(*read)
        np.testing.assert_allclose(gradient, uses * expected, rtol=1e-5)
