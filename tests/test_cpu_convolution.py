"""Convolutions and linear layers of the CPU backend, and their gradients, are NumPy's in double precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import (
    MACHINES,
    array_of,
    buffer_of,
    check,
    drawn,
    in_kernels,
    on,
    output_of,
    weight_of,
)

from sparsecore.errors import InputError
from sparsecore.host.weights import WeightView
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations, NullTape
from sparsecore_cpu.weighted import ListCache

FloatArray = NDArray[np.float32]

few = settings(max_examples=40)
draws = np.random.default_rng
batches = st.integers(1, 4) | st.integers(1, 40)
densities = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])


def some_of(dense: FloatArray, density: float) -> WeightView:
    return weight_of(dense, np.flatnonzero(draws(dense.size).random(dense.size) < density))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[FloatArray, WeightView, dict[str, int]]:
    """Images, a kernel, and a stride and padding; whatever there is to batches, sides, channels and densities."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 3), (5, 1), (4, 4)]))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    height, width = (draw(st.integers(max(1, side - 2 * padding), 19)) for side in kernel)
    channels, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**32))
    x = drawn(seed, draw(batches), height, width, channels)
    weight = some_of(drawn(seed + 1, outputs, channels, *kernel), draw(densities))
    return x, weight, {"stride": stride, "padding": padding}


@few
@given(convolutions())
def test_convolution_and_its_gradients_equal_numpy_s(case: tuple[FloatArray, WeightView, dict[str, int]]) -> None:
    x, weight, window = case
    check(lambda ops, x, weights: ops.conv2d(x, weights[0], **window), x, [weight])


@settings(max_examples=10)
@given(convolutions())
def test_weight_gradients_are_the_same_without_the_input_gradient(
    case: tuple[FloatArray, WeightView, dict[str, int]],
) -> None:
    x, weight, window = case

    def forward(ops: Any, x: Any, weights: list[Any]) -> Any:
        return ops.conv2d(x, weights[0], **window)

    direction = drawn(0, *output_of(forward, x, [weight]).shape)
    for machine in MACHINES:
        whole = in_kernels(machine, forward, x, [weight], direction)
        without = in_kernels(machine, forward, x, [weight], direction, differentiable=False)
        assert without.by_input is None
        np.testing.assert_array_equal(without.output, whole.output)
        np.testing.assert_array_equal(without.by_weight[0], whole.by_weight[0])


@few
@given(
    batch=batches,
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    density=densities,
    biased=st.sampled_from([None, 0.0, 0.5, 1.0]),
)
def test_linear_and_its_gradients_equal_numpy_s(
    batch: int, inputs: int, outputs: int, density: float, biased: float | None
) -> None:
    x, matrix = drawn(batch, batch, inputs), some_of(drawn(inputs, outputs, inputs), density)
    bias = [] if biased is None else [some_of(drawn(1, outputs), biased)]
    check(lambda ops, x, weights: ops.linear(x, *weights), x, [matrix, *bias])


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 3, 2)])
def test_realistic_channel_counts_and_image_sizes_have_numpy_s_gradients(
    kernel: int, stride: int, padding: int
) -> None:
    x, weight = drawn(0, 20, 31, 33, 48), some_of(drawn(1, 96, 48, kernel, kernel), 0.1)
    check(lambda ops, x, weights: ops.conv2d(x, weights[0], stride=stride, padding=padding), x, [weight])


@pytest.mark.parametrize("steps", [(1,), (2, 3), (1, 1, 2)])
def test_a_weight_used_more_than_once_gets_the_sum_of_all_gradients(steps: tuple[int, ...]) -> None:
    def forward(ops: Any, x: Any, weights: list[Any]) -> Any:
        for stride in steps:
            x = ops.conv2d(x, weights[0], stride=stride, padding=1)
        return x

    check(forward, drawn(0, 9, 11, 8, 6), [some_of(0.2 * drawn(1, 6, 6, 3, 3), 0.5)])


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)
def test_changed_values_are_used_in_the_next_step(machine: Any) -> None:
    weight, lists, x = some_of(drawn(1, 7, 4, 3, 3), 0.4), ListCache(), drawn(0, 3, 5, 5, 4)
    for _ in range(2):
        buffer = buffer_of(machine, x)
        ops = CpuOperations(machine, lists, NullTape(), of_batch)
        output = ops.conv2d(Activation(machine, buffer.form, InputNode(buffer)), weight, padding=1)
        expected = output_of(lambda ops, x, weights: ops.conv2d(x, weights[0], padding=1), x, [weight])
        np.testing.assert_allclose(array_of(output.buffer()), expected, atol=1e-4)
        weight.values[:] = drawn(2, len(weight.values))


def test_images_smaller_than_the_kernel_are_refused_as_numpy_refuses_them() -> None:
    with pytest.raises(InputError, match="kernel of 3×3 does not fit into images of 2×4 pixels"):
        in_kernels(
            on("baseline"),
            lambda ops, x, weights: ops.conv2d(x, weights[0]),
            drawn(0, 1, 2, 4, 1),
            [weight_of(drawn(1, 1, 1, 3, 3))],
            drawn(0, 1, 1, 1, 1),
        )
