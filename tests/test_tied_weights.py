"""Operations with tied weights on both backends: against tensors laid out by the definition, in double precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ties_oracle import laid_out

from sparsecore_numpy import normalization
from sparsecore_numpy.machine import Machine
from sparsecore_numpy.memory import Memory
from sparsecore_numpy.operations import NumpyOperations
from sparsecore_numpy.tape import Forgetful, Tape, Tensor
from sparsecore_numpy.weights import Weight
from sparsecore_numpy.workers import Workers

FloatArray = NDArray[np.float64]
MACHINE = Machine(Memory("float64"), Workers(2))

few = settings(max_examples=30, deadline=None)
keys = st.integers(0, 2**62 - 1)


def numpy_operations(recorder: Any) -> NumpyOperations:
    return NumpyOperations(MACHINE, recorder, normalization.of_batch)


def vector(values: FloatArray) -> Weight:
    return Weight(values.shape, np.arange(len(values)), values, np.zeros_like(values))


def by_definition(values: FloatArray, shape: tuple[int, ...], key: int) -> Weight:
    dense = laid_out(values, shape, key)
    return Weight(shape, np.arange(dense.size), dense.reshape(-1), np.zeros(dense.size))


def slopes(gradient: FloatArray, count: int, shape: tuple[int, ...], key: int) -> FloatArray:
    """The gradient of the values from that of the dense tensor: of a linear map, its transpose."""
    lay_out = np.stack([laid_out(row, shape, key).reshape(-1) for row in np.eye(count)])
    return np.asarray(lay_out @ gradient)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[FloatArray, FloatArray, tuple[int, ...], int, int, int]:
    batch, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    height, width = (draw(st.integers(max(1, side - 2 * padding), 6)) for side in kernel)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, values = rng.standard_normal((batch, height, width, channels)), rng.standard_normal(draw(st.integers(1, 12)))
    return x, values, (outputs, channels, *kernel), draw(keys), stride, padding


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
def test_numpy_multiplies_by_it_likewise_also_where_some_values_do_not_exist(
    batch: int, inputs: int, outputs: int, count: int, key: int, whole: bool
) -> None:
    rng = np.random.default_rng(count)
    x, values, direction = (rng.standard_normal(size) for size in ((batch, inputs), count, (batch, outputs)))
    exist = np.arange(count) if whole else np.arange(0, count, 2)
    weight = Weight((count,), exist, values[exist], np.zeros(len(exist)))
    dense = laid_out(np.where(np.isin(np.arange(count), exist), values, 0), (outputs, inputs), key)
    tape, vectors = Tape(), Tensor(x)
    ops = numpy_operations(tape)
    output = ops.linear(vectors, ops.tied(weight, (outputs, inputs), key))
    tape.backward(output, direction)
    np.testing.assert_allclose(output.data, x @ dense.T, atol=1e-12)
    np.testing.assert_allclose(vectors.gradient, direction @ dense, atol=1e-12)
    expected = slopes((direction.T @ x).reshape(-1), count, (outputs, inputs), key)
    np.testing.assert_allclose(weight.gradient, expected[exist], atol=1e-10)


def test_a_tensor_of_many_blocks_is_that_of_the_definition() -> None:
    values, shape = np.random.default_rng(0).standard_normal(50), (5, 7, 37, 31)
    tied = numpy_operations(Forgetful()).tied(vector(values), shape, 7)
    np.testing.assert_array_equal(tied.vector(), laid_out(values, shape, 7))
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(on_torch(torch.tensor(values), shape, 7).tensor().numpy(), tied.vector())


def on_torch(values: Any, shape: tuple[int, ...], key: int) -> Any:
    from sparsecore_torch.learning.operations import TorchOperations, by_batch
    from sparsecore_torch.learning.weights import DenseWeight

    return TorchOperations(by_batch).tied(DenseWeight(values), shape, key)


@few
@given(convolutions())
def test_torch_convolves_as_with_the_tensor_of_the_definition(case: Any) -> None:
    torch = pytest.importorskip("torch")
    x, numbers, shape, key, stride, padding = case
    images = [torch.tensor(x).permute(0, 3, 1, 2).requires_grad_() for _ in range(2)]
    values = torch.tensor(numbers, requires_grad=True)
    dense = torch.tensor(laid_out(numbers, shape, key), requires_grad=True)
    outputs = (
        on_torch(values, shape, key).conv2d(images[0], stride, padding),
        torch.nn.functional.conv2d(images[1], dense, None, stride, padding),
    )
    direction = torch.tensor(np.random.default_rng(1).standard_normal(outputs[0].shape))
    for output in outputs:
        output.backward(direction)
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(images[0].grad, images[1].grad)
    expected = slopes(dense.grad.numpy().reshape(-1), len(numbers), shape, key)
    np.testing.assert_allclose(values.grad.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("needs_x", [True, False])
def test_gradients_on_torch_are_those_of_central_differences(needs_x: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.standard_normal((2, 3, 4, 4)), requires_grad=needs_x)
    values = torch.tensor(rng.standard_normal(11), requires_grad=True)

    def function(x: Any, values: Any) -> Any:
        y = on_torch(values, (2, 3, 3, 3), 5).conv2d(x, 2, 1).mean((2, 3))
        return on_torch(values, (4, 2), 6).linear(y, None) + on_torch(values, (4,), 7).tensor()

    assert torch.autograd.gradcheck(function, (x, values))


def test_the_operators_of_torch_keep_torch_s_rules() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.standard_normal(11), requires_grad=True)
    images = torch.tensor(rng.standard_normal((2, 3, 4, 4)), requires_grad=True)
    vectors = torch.tensor(rng.standard_normal((2, 3)), requires_grad=True)
    on_torch(values, (1,), 0)
    library = torch.ops.sparsecore
    torch.library.opcheck(library.tied_conv2d.default, (images, values, (2, 3, 3, 3), 2**61, 1, 1))
    torch.library.opcheck(library.tied_linear.default, (vectors, values, (2, 3), 2**61))
    torch.library.opcheck(library.tied_dense.default, (values, (2, 3), 2**61))


def test_nothing_of_the_dense_size_is_kept_for_the_backward_pass() -> None:
    torch = pytest.importorskip("torch")
    kept: list[int] = []
    values, x = torch.zeros(46, requires_grad=True), torch.zeros((1, 16, 3, 3))

    def noted(tensor: Any) -> Any:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        output = on_torch(values, (32, 16, 3, 3), 1).conv2d(x, 1, 1)
    assert sorted(kept) == [46, x.numel()]
    output.sum().backward()


def test_numpy_keeps_no_index_of_the_dense_size() -> None:
    weight, tape = vector(np.ones(46)), Tape()
    ops = numpy_operations(tape)
    output = ops.conv2d(Tensor(np.ones((1, 3, 3, 16))), ops.tied(weight, (32, 16, 3, 3), 1), padding=1)
    tape.backward(output, np.ones(output.data.shape))
    assert all(index.size <= 46 for index in weight.indices)


def test_tied_layers_compute_in_bfloat16_under_autocast_and_gradients_are_in_single_precision() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.standard_normal(20), dtype=torch.float32, requires_grad=True)
    x = torch.tensor(rng.standard_normal((2, 3, 5, 5)), dtype=torch.float32)
    weight = on_torch(values, (4, 3, 3, 3), 9)
    with torch.autocast("cpu", torch.bfloat16):
        output = weight.conv2d(x, 1, 1)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    lowered, values.grad = values.grad, None
    weight.conv2d(x, 1, 1).sum().backward()
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered, values.grad, rtol=0.05, atol=0.5)


def test_float32_gradients_are_the_same_every_time_on_several_threads() -> None:
    torch = pytest.importorskip("torch")
    values = torch.linspace(-1, 1, 100, requires_grad=True)
    x = torch.tensor(np.random.default_rng(0).standard_normal((64, 784)), dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = set()
        for _ in range(5):
            values.grad = None
            on_torch(values, (300, 784), 3).linear(x, None).square().sum().backward()
            gradients.add(values.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(gradients) == 1
