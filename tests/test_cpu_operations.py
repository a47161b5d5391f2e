"""The other operations of the CPU backend, and their gradients, are NumPy's in double precision."""

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
    weight_of,
)

from sparsecore.errors import InputError
from sparsecore_cpu import operations
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.operations import CpuOperations, NullTape
from sparsecore_cpu.weighted import ListCache

FloatArray = NDArray[np.float32]

few = settings(max_examples=30)
draws = np.random.default_rng
on_machines = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)


@st.composite
def activations(draw: st.DrawFn, least: int = 1) -> FloatArray:
    """Images or vectors, of any batch that has at least so many."""
    sides = draw(st.sampled_from([(), (1, 1), (2, 3), (7, 5), (16, 17)]))
    batch = draw(st.integers(least, 5) | st.integers(least, 40))
    return drawn(draw(st.integers(0, 2**32)), batch, *sides, draw(st.integers(1, 20)))


def norm_of(channels: int) -> list[Any]:
    """Scale, shift, running mean and running variance."""
    scale, shift, mean, variance = drawn(channels, 4, channels)
    return [weight_of(scale), weight_of(shift), mean, abs(variance) + 0.5]


def spread(x: FloatArray, mean: float) -> FloatArray:
    """The same with this mean and a deviation of 2 in each channel: batch norm enlarges no rounding of it."""
    channels = x.reshape(-1, x.shape[-1]).astype(float)
    return (2 * (x - channels.mean(0)) / channels.std(0) + mean).astype(np.float32)


def normalized(ops: Any, x: Any, weights: list[Any]) -> Any:
    return ops.batch_norm(x, *weights)


def rectified(ops: Any, x: Any, weights: list[Any]) -> Any:
    return ops.relu(ops.batch_norm(x, *weights))


@few
@given(activations(least=2), st.sampled_from([0.0, 3.0, -40.0]))
def test_batch_norm_gradients_and_running_statistics_equal_numpy_s(x: FloatArray, distance: float) -> None:
    check(normalized, spread(x, distance), norm_of(x.shape[-1]), rounding=1e-6 * (10 + abs(distance)))


@on_machines
def test_batch_norm_far_from_zero_errs_by_at_most_the_rounding_of_its_input(machine: Any) -> None:
    x = 1000 + drawn(0, 33, 8, 9, 5)
    direction, weights = 1 + drawn(1, *x.shape), norm_of(5)
    made = in_kernels(machine, normalized, x, weights, direction)
    scale, shift, mean, variance = weights
    exact, given_ = x.astype(float).reshape(-1, 5), direction.astype(float).reshape(-1, 5)
    whitened = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    # single precision knows 1000 to 6e-5
    atol = 4 * 6e-5 * abs(scale.values).max()
    np.testing.assert_allclose(made.output.reshape(-1, 5), whitened * scale.values + shift.values, atol=atol)
    np.testing.assert_allclose(made.by_weight[0], (given_ * whitened).sum(0), atol=5e-3)
    np.testing.assert_allclose(made.by_weight[1], given_.sum(0), rtol=1e-6)
    np.testing.assert_allclose(made.by_weight[2], 0.9 * mean + 0.1 * exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(made.by_weight[3], 0.9 * variance + 0.1 * exact.var(0, ddof=1), rtol=1e-4)


@on_machines
def test_batch_norm_of_a_convolution_far_from_zero_keeps_its_variance(machine: Any) -> None:
    def forward(ops: Any, x: Any, weights: list[Any]) -> Any:
        return ops.batch_norm(ops.conv2d(x, weights[0]), *weights[1:])

    x, matrix = 1000 + drawn(0, 33, 8, 9, 2), np.float32([[[[1.5]], [[0]]], [[[0]], [[-1]]], [[[0.5]], [[0.5]]]])
    weights = [weight_of(matrix, np.array([0, 3, 4, 5])), *norm_of(3)]
    made = in_kernels(machine, forward, x, weights, drawn(1, 33, 8, 9, 3))
    exact = x.astype(float).reshape(-1, 2) @ matrix.reshape(3, 2).T
    np.testing.assert_allclose(made.by_weight[4], 0.9 * weights[4] + 0.1 * exact.var(0, ddof=1), rtol=1e-4)


@on_machines
def test_batch_norm_of_a_constant_channel_returns_the_shift(machine: Any) -> None:
    x, weights = np.full((19, 3, 3, 4), 7.25, np.float32), norm_of(4)
    made = in_kernels(machine, normalized, x, weights, drawn(0, *x.shape))
    np.testing.assert_allclose(made.output, np.broadcast_to(weights[1].values, x.shape), atol=1e-3)
    assert all(np.isfinite(array).all() for array in made.arrays)


@few
@given(activations(least=2))
def test_relu_of_batch_norm_and_its_gradients_equal_numpy_s(x: FloatArray) -> None:
    check(rectified, spread(x, 1.0), norm_of(x.shape[-1]), kinks=normalized)


@on_machines
@few
@given(x=activations())
def test_batch_norm_in_evaluation_uses_running_statistics_and_leaves_them(machine: Any, x: FloatArray) -> None:
    scale, shift, mean, variance = norm_of(x.shape[-1])
    kept, buffer = (mean.copy(), variance.copy()), buffer_of(machine, x)
    ops = CpuOperations(machine, ListCache(), NullTape(), operations.running)
    output = ops.batch_norm(Activation(machine, buffer.form, InputNode(buffer)), scale, shift, mean, variance)
    expected = (x - mean) / np.sqrt(variance.astype(float) + 1e-5) * scale.values + shift.values
    np.testing.assert_allclose(array_of(output.buffer()), expected, atol=1e-5 * max(1, abs(expected).max()))
    np.testing.assert_array_equal((mean, variance), kept)


@few
@given(activations())
def test_relu_adding_pooling_and_flattening_and_their_gradients_equal_numpy_s(x: FloatArray) -> None:
    check(lambda ops, x, _: ops.relu(x), x, [])
    check(lambda ops, x, _: ops.add(x, x), x, [])
    check(lambda ops, x, _: ops.add(ops.relu(x), x), x, [])
    check(lambda ops, x, _: ops.flatten(ops.relu(x)), x, [])
    if x.ndim == 4:
        check(lambda ops, x, _: ops.global_average_pool(x), x, [])
        check(lambda ops, x, _: ops.global_average_pool(ops.add(x, ops.relu(x))), x, [])


@on_machines
def test_relu_is_zero_and_has_no_gradient_up_to_zero(machine: Any) -> None:
    x = np.array([[-2.0, -0.0, 0.0, 3.0]], np.float32)
    made = in_kernels(machine, lambda ops, x, _: ops.relu(x), x, [], np.ones_like(x))
    assert made.output.tolist() == [[0, 0, 0, 3]]
    assert made.by_input is not None
    assert made.by_input.tolist() == [[0, 0, 0, 1]]


def test_mismatched_shapes_raise_one_error_sentence() -> None:
    def refused(forward: Any, x: FloatArray, *weights: Any) -> None:
        in_kernels(on("baseline"), forward, x, list(weights), x)

    pictures, vectors = drawn(0, 2, 4, 4, 3), drawn(0, 2, 3)
    with pytest.raises(InputError, match=r"same shape; given \(2, 4, 4, 3\) and \(2, 3\)"):
        refused(lambda ops, x, _: ops.add(x, ops.global_average_pool(x)), pictures)
    with pytest.raises(InputError, match=r"weights of shape \(5, 2, 3, 3\) cannot take a tensor of \(2, 4, 4, 3\)"):
        refused(lambda ops, x, weights: ops.conv2d(x, weights[0]), pictures, weight_of(drawn(0, 5, 2, 3, 3)))
    with pytest.raises(InputError, match=r"weights of shape \(5, 3\) cannot take a tensor of \(2, 4, 4, 3\)"):
        refused(lambda ops, x, weights: ops.linear(x, weights[0]), pictures, weight_of(drawn(0, 5, 3)))
    with pytest.raises(InputError, match="more than one value a channel"):
        refused(normalized, vectors[:1], *norm_of(3))
