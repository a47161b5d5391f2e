"""Each operation against its definition, and each gradient against central differences, in double precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.host.buffers import BufferPool
from sparsecore.host.computation import NullTape, Tape, cross_entropy, mean_gradient
from sparsecore.host.weights import WeightView
from sparsecore_numpy import normalization
from sparsecore_numpy.operations import NumpyOperations, Tensor
from sparsecore_numpy.workspace import WorkerPool, Workspace

FloatArray = NDArray[np.float64]
MACHINE = Workspace(BufferPool("float64"), WorkerPool(2))

few = settings(max_examples=40, deadline=None)


def operations(tape: Any, statistics: Any = normalization.of_batch) -> NumpyOperations:
    return NumpyOperations(MACHINE, tape, statistics)


def weight_of(dense: FloatArray, positions: Any = None) -> WeightView:
    positions = np.arange(dense.size) if positions is None else positions
    values = dense.reshape(-1)[positions]
    return WeightView(dense.shape, positions, values, np.zeros(len(positions)))


def differences(function: Callable[[], float], array: FloatArray, step: float) -> FloatArray:
    """The gradient of the function for the entries of an array that it reads."""
    gradient = np.empty_like(array)
    for place in np.ndindex(array.shape):
        entry = array[place]
        array[place] = entry + step
        above = function()
        array[place] = entry - step
        gradient[place] = (above - function()) / (2 * step)
        array[place] = entry
    return gradient


def check_gradients(
    forward: Callable[[NumpyOperations, Tensor], Tensor],
    x: FloatArray,
    weights: list[WeightView],
    direction_seed: int,
    step: float = 1e-5,
    tolerance: float = 1e-6,
) -> None:
    """Compare with central differences the gradients of a random linear function of an operation's output."""
    tape = Tape()
    tensor = Tensor(x)
    output = forward(operations(tape), tensor)
    direction = np.random.default_rng(direction_seed).standard_normal(output.data.shape)
    tape.backward(output, direction)

    def function() -> float:
        return float((forward(operations(NullTape()), Tensor(x)).data * direction).sum())

    np.testing.assert_allclose(tensor.gradient, differences(function, x, step), rtol=tolerance, atol=tolerance)
    for weight in weights:
        expected = differences(function, weight.values, step)
        np.testing.assert_allclose(weight.gradient, expected, rtol=tolerance, atol=tolerance)


def naive_convolution(x: FloatArray, weight: FloatArray, stride: int, padding: int) -> FloatArray:
    """Cross-correlation in loops, on (batch, height, width, channels)."""
    batch, height, width, _ = x.shape
    outputs, _, kernel_height, kernel_width = weight.shape
    rows = (height + 2 * padding - kernel_height) // stride + 1
    columns = (width + 2 * padding - kernel_width) // stride + 1
    result = np.zeros((batch, rows, columns, outputs))
    for n, row, column, out in np.ndindex(result.shape):
        for i in range(kernel_height):
            for j in range(kernel_width):
                y, z = row * stride + i - padding, column * stride + j - padding
                if 0 <= y < height and 0 <= z < width:
                    result[n, row, column, out] += sum(x[n, y, z, :] * weight[out, :, i, j])
    return result


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[FloatArray, WeightView, FloatArray, int, int]:
    batch, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride, padding = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    height, width = (draw(st.integers(max(1, side - 2 * padding), 6)) for side in kernel)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((batch, height, width, channels))
    dense = rng.standard_normal((outputs, channels, *kernel))
    exist = rng.random(dense.size) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    dense.reshape(-1)[~exist] = 0
    return x, weight_of(dense, np.flatnonzero(exist)), dense, stride, padding


@few
@given(convolutions())
def test_convolution_is_the_sum_over_the_kernel(case: tuple[FloatArray, WeightView, FloatArray, int, int]) -> None:
    x, weight, dense, stride, padding = case
    output = operations(NullTape()).conv2d(Tensor(x), weight, stride=stride, padding=padding)
    np.testing.assert_allclose(output.data, naive_convolution(x, dense, stride, padding), atol=1e-12)


@few
@given(convolutions())
def test_gradients_of_convolution_are_those_of_central_differences(
    case: tuple[FloatArray, WeightView, FloatArray, int, int],
) -> None:
    x, weight, _, stride, padding = case
    check_gradients(
        lambda ops, t: ops.conv2d(t, weight, stride=stride, padding=padding),
        x,
        [weight],
        direction_seed=1,
        step=1.0,  # it is linear in either
        tolerance=1e-10,
    )


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 1, 3), (2, 0, 1), (1, 0, 1)])
def test_splitting_a_batch_into_parts_and_blocks_does_not_change_gradients(
    stride: int, padding: int, kernel: int
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 24, 24, 8))
    dense = rng.standard_normal((16, 8, kernel, kernel))
    whole = weight_of(dense)
    tape, tensor = Tape(), Tensor(x)
    output = operations(tape).conv2d(tensor, whole, stride=stride, padding=padding)
    direction = rng.standard_normal(output.data.shape)
    tape.backward(output, direction)
    single = weight_of(dense)
    for image in range(len(x)):
        tape, one = Tape(), Tensor(x[image : image + 1].copy())
        part = operations(tape).conv2d(one, single, stride=stride, padding=padding)
        np.testing.assert_allclose(output.data[image], part.data[0], atol=1e-11)
        tape.backward(part, direction[image : image + 1].copy())
        assert tensor.gradient is not None
        assert one.gradient is not None
        np.testing.assert_allclose(tensor.gradient[image], one.gradient[0], atol=1e-11)
    np.testing.assert_allclose(whole.gradient, single.gradient, atol=1e-9)


def test_images_too_small_for_a_kernel_are_refused() -> None:
    with pytest.raises(InputError, match="kernel of 3×3 does not fit into images of 2×4 pixels"):
        operations(NullTape()).conv2d(Tensor(np.zeros((1, 2, 4, 1))), weight_of(np.zeros((1, 1, 3, 3))))


@st.composite
def activations(draw: st.DrawFn) -> FloatArray:
    """Images or vectors, of at least two examples."""
    sides = draw(st.sampled_from([(), (1, 1), (2, 3), (4, 1)]))
    shape = (draw(st.integers(2, 12)), *sides, draw(st.integers(1, 4)))
    return np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal(shape)


def norm_parameters(channels: int) -> tuple[WeightView, WeightView, FloatArray, FloatArray]:
    rng = np.random.default_rng(channels)
    scale, shift = weight_of(rng.standard_normal(channels)), weight_of(rng.standard_normal(channels))
    return scale, shift, rng.standard_normal(channels), rng.random(channels) + 0.5


@few
@given(activations(), st.sampled_from([0.0, 5.0, -1000.0]))
def test_batch_norm_in_training_normalizes_by_the_batch_and_moves_running_statistics(
    x: FloatArray, distance: float
) -> None:
    x = x * 3 + distance
    channels = x.shape[-1]
    scale, shift, mean, variance = norm_parameters(channels)
    mean_before, variance_before = mean.copy(), variance.copy()
    output = operations(NullTape()).batch_norm(Tensor(x), scale, shift, mean, variance)
    values = x.reshape(-1, channels)
    expected = (x - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + 1e-5) * scale.values + shift.values
    np.testing.assert_allclose(output.data, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(mean, 0.9 * mean_before + 0.1 * values.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(variance, 0.9 * variance_before + 0.1 * values.var(axis=0, ddof=1), rtol=1e-7)


@few
@given(activations())
def test_batch_norm_in_evaluation_normalizes_by_running_statistics_and_leaves_them(x: FloatArray) -> None:
    scale, shift, mean, variance = norm_parameters(x.shape[-1])
    mean_before, variance_before = mean.copy(), variance.copy()
    ops = operations(NullTape(), normalization.running)
    output = ops.batch_norm(Tensor(x), scale, shift, mean, variance)
    expected = (x - mean) / np.sqrt(variance + 1e-5) * scale.values + shift.values
    np.testing.assert_allclose(output.data, expected, atol=1e-12)
    np.testing.assert_array_equal(mean, mean_before)
    np.testing.assert_array_equal(variance, variance_before)


@few
@given(activations())
def test_gradients_of_batch_norm_are_those_of_central_differences(x: FloatArray) -> None:
    scale, shift, _, _ = norm_parameters(x.shape[-1])
    x *= 1 + 10 * np.arange(x.shape[-1])
    if np.ptp(x.reshape(-1, x.shape[-1]), axis=0).min() < 0.1:  # nearly constant: the differences are not accurate
        x[0] += 1
    zero = np.zeros(x.shape[-1])
    check_gradients(
        lambda ops, t: ops.batch_norm(t, scale, shift, zero.copy(), zero.copy()),
        x,
        [scale, shift],
        direction_seed=2,
        tolerance=1e-5,
    )


def test_batch_norm_in_single_precision_keeps_a_small_variance_far_from_zero() -> None:
    x = (1000 + np.random.default_rng(0).standard_normal((64, 8, 8, 3))).astype(np.float32)
    moments = normalization.of_batch(Workspace(BufferPool("float32"), WorkerPool(2)), x, np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(moments.variance, x.astype(np.float64).reshape(-1, 3).var(axis=0), rtol=1e-4)


def test_batch_norm_of_a_single_value_a_channel_is_refused_in_training() -> None:
    scale, shift, mean, variance = norm_parameters(2)
    with pytest.raises(InputError, match="more than one value a channel"):
        operations(NullTape()).batch_norm(Tensor(np.zeros((1, 2))), scale, shift, mean, variance)


@few
@given(activations())
def test_gradients_of_relu_pooling_and_adding_are_those_of_central_differences(x: FloatArray) -> None:
    x[np.abs(x) < 1e-3] = 1e-3  # no difference across the kink
    check_gradients(lambda ops, t: ops.relu(t), x, [], direction_seed=3)
    check_gradients(lambda ops, t: ops.add(ops.relu(t), t), x, [], direction_seed=3)
    if x.ndim == 4:
        check_gradients(lambda ops, t: ops.global_average_pool(t), x, [], direction_seed=3)


def test_relu_is_zero_and_has_no_gradient_up_to_zero() -> None:
    tape, x = Tape(), Tensor(np.array([[-2.0, -0.0, 0.0, 3.0]]))
    output = operations(tape).relu(x)
    tape.backward(output, np.ones((1, 4)))
    np.testing.assert_array_equal(output.data, [[0, 0, 0, 3]])
    np.testing.assert_array_equal(x.gradient, [[0, 0, 0, 1]])


def test_pooling_is_the_mean_over_height_and_width() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 2))
    pooled = operations(NullTape()).global_average_pool(Tensor(x)).data
    np.testing.assert_allclose(pooled, np.einsum("nhwc->nc", x) / 20, atol=1e-14)


def test_flatten_is_in_the_order_height_width_channel_and_takes_gradients_back() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    tape, tensor = Tape(), Tensor(x)
    output = operations(tape).flatten(tensor)
    assert output.data[1, (2 * 4 + 3) * 5 + 4] == x[1, 2, 3, 4]
    tape.backward(output, output.data)
    np.testing.assert_array_equal(tensor.gradient, x)


def test_adding_tensors_of_different_shapes_is_refused() -> None:
    with pytest.raises(InputError, match="same shape"):
        operations(NullTape()).add(Tensor(np.zeros((2, 3))), Tensor(np.zeros((2, 1))))


@few
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.3, 1.0]), st.booleans())
def test_linear_is_a_product_and_its_gradients_are_those_of_central_differences(
    batch: int, inputs: int, outputs: int, density: float, biased: bool
) -> None:
    rng = np.random.default_rng(batch + inputs)
    x, dense = rng.standard_normal((batch, inputs)), rng.standard_normal((outputs, inputs))
    exist = rng.random(dense.size) < density
    dense.reshape(-1)[~exist] = 0
    weight, shift = weight_of(dense, np.flatnonzero(exist)), weight_of(rng.standard_normal(outputs))
    bias = shift if biased else None
    output = operations(NullTape()).linear(Tensor(x), weight, bias).data
    expected = np.einsum("bi,oi->bo", x, dense) + (shift.values if biased else 0)
    np.testing.assert_allclose(output, expected, atol=1e-12)
    check_gradients(lambda ops, t: ops.linear(t, weight, bias), x, [weight, shift] if biased else [weight], 4)


@few
@given(st.integers(1, 6), st.integers(2, 5), st.floats(0.1, 30))
def test_cross_entropy_is_minus_the_log_probability_and_its_gradient_that_of_the_mean(
    batch: int, classes: int, size: float
) -> None:
    rng = np.random.default_rng(batch)
    logits, labels = size * rng.standard_normal((batch, classes)), rng.integers(0, classes, batch)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(batch), labels])
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-9, atol=1e-12)
    gradient = differences(lambda: float(cross_entropy(logits, labels).mean()), logits, 1e-5)
    np.testing.assert_allclose(mean_gradient(logits, labels), gradient, atol=1e-7)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits, labels = np.array([[1e30, 0.0], [-1e30, 5.0]], np.float32), np.array([1, 1])
    np.testing.assert_allclose(cross_entropy(logits, labels), [1e30, 0.0])
    np.testing.assert_array_equal(mean_gradient(logits, labels), [[0.5, -0.5], [0, 0]])


def test_a_weight_used_twice_gets_the_sum_of_both_gradients() -> None:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((2, 2, 3, 3))
    weight = weight_of(dense, np.flatnonzero(rng.random(dense.size) < 0.5))
    x = rng.standard_normal((2, 4, 4, 2))

    def forward(ops: NumpyOperations, t: Tensor) -> Tensor:
        return ops.conv2d(ops.conv2d(t, weight, padding=1), weight, stride=2, padding=1)

    check_gradients(forward, x, [weight], direction_seed=5)


def test_a_tensor_used_three_times_gets_the_sum_of_all_gradients() -> None:
    rng = np.random.default_rng(0)
    weight = weight_of(rng.standard_normal((2, 2, 1, 1)))

    def forward(ops: NumpyOperations, t: Tensor) -> Tensor:
        doubled = ops.add(t, t)
        return ops.add(ops.add(doubled, ops.conv2d(doubled, weight)), t)

    check_gradients(forward, rng.standard_normal((2, 3, 3, 2)), [weight], direction_seed=6)
