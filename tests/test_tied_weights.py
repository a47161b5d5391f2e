"""Operations with tied weights on NumPy, against tensors built from the definition, in double precision."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ties_oracle import convolutions, keys, laid_out, slopes

from sparsecore.host.buffers import BufferPool
from sparsecore.host.computation import NullTape, Tape
from sparsecore.host.weights import WeightView
from sparsecore_numpy import normalization
from sparsecore_numpy.operations import NumpyOperations, Tensor
from sparsecore_numpy.workspace import WorkerPool, Workspace

FloatArray = NDArray[np.float64]
MACHINE = Workspace(BufferPool("float64"), WorkerPool(2))

few = settings(max_examples=30, deadline=None)


def numpy_operations(tape: Any) -> NumpyOperations:
    return NumpyOperations(MACHINE, tape, normalization.of_batch)


def vector(values: FloatArray) -> WeightView:
    return WeightView(values.shape, np.arange(len(values)), values, np.zeros_like(values))


def by_definition(values: FloatArray, shape: tuple[int, ...], key: int) -> WeightView:
    dense = laid_out(values, shape, key)
    return WeightView(shape, np.arange(dense.size), dense.reshape(-1), np.zeros(dense.size))


@few
@given(convolutions())
def test_numpy_convolves_with_the_tensor_of_the_definition_and_sums_gradients_over_all_entries(case: Any) -> None:
    x, values, shape, key, stride, padding = case
    results = []
    tied, dense = vector(values), by_definition(values, shape, key)
    for weight in (numpy_operations(Tape()).tied(tied, shape, key), dense):
        tape, images = Tape(), Tensor(x)
        output = numpy_operations(tape).conv2d(images, weight, stride=stride, padding=padding)
        tape.backward(output, np.random.default_rng(1).standard_normal(output.data.shape))
        results.append((output.data, images.gradient))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-12)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-12)
    np.testing.assert_allclose(tied.gradient, slopes(dense.gradient, len(values), shape, key), atol=1e-10)


@few
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), keys, st.booleans())
def test_numpy_multiplies_by_the_tensor_of_the_definition_even_with_unused_values(
    batch: int, inputs: int, outputs: int, count: int, key: int, whole: bool
) -> None:
    rng = np.random.default_rng(count)
    x, values, direction = (rng.standard_normal(size) for size in ((batch, inputs), count, (batch, outputs)))
    exist = np.arange(count) if whole else np.arange(0, count, 2)
    weight = WeightView((count,), exist, values[exist], np.zeros(len(exist)))
    dense = laid_out(np.where(np.isin(np.arange(count), exist), values, 0), (outputs, inputs), key)
    tape, vectors = Tape(), Tensor(x)
    ops = numpy_operations(tape)
    output = ops.linear(vectors, ops.tied(weight, (outputs, inputs), key))
    tape.backward(output, direction)
    np.testing.assert_allclose(output.data, x @ dense.T, atol=1e-12)
    np.testing.assert_allclose(vectors.gradient, direction @ dense, atol=1e-12)
    expected = slopes((direction.T @ x).reshape(-1), count, (outputs, inputs), key)
    np.testing.assert_allclose(weight.gradient, expected[exist], atol=1e-10)


def test_a_tensor_of_many_blocks_equals_that_of_the_definition() -> None:
    values, shape = np.random.default_rng(0).standard_normal(50), (5, 7, 37, 31)
    tied = numpy_operations(NullTape()).tied(vector(values), shape, 7)
    np.testing.assert_array_equal(tied.to_array(), laid_out(values, shape, 7))


def test_numpy_keeps_no_index_of_the_dense_size() -> None:
    weight, tape = vector(np.ones(46)), Tape()
    ops = numpy_operations(tape)
    output = ops.conv2d(Tensor(np.ones((1, 3, 3, 16))), ops.tied(weight, (32, 16, 3, 3), 1), padding=1)
    tape.backward(output, np.ones(output.data.shape))
    assert all(index.size <= 46 for index in weight.indices)
