"""Each operation, and each gradient, against those of NumPy; images go in and come out in either memory format."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from torch_devices import DEVICES

from sparsecore.data.images import (
    Batch,
    Split,
    augmented,
)
from sparsecore.errors import InputError
from sparsecore.host import weights
from sparsecore.host.buffers import BufferPool
from sparsecore.host.computation import Tape
from sparsecore_numpy import normalization, operations
from sparsecore_numpy.workspace import WorkerPool, Workspace
from sparsecore_torch.experiment.inputs import DeviceSplit
from sparsecore_torch.experiment.layers import SPARSE
from sparsecore_torch.experiment.operations import DenseWeight, SparseWeight, TorchOperations, by_batch, by_running

FloatArray = NDArray[np.float64]
MACHINE = Workspace(BufferPool("float64"), WorkerPool(1))
OFFSET = 7
"""First position of a sparse tensor in its layout."""

few = settings(max_examples=40)
on_devices = pytest.mark.parametrize("device", DEVICES)
formats = st.sampled_from([torch.contiguous_format, torch.channels_last])
draws = np.random.default_rng


def numpy_weight(dense: FloatArray, positions: Any) -> weights.WeightView:
    return weights.WeightView(dense.shape, positions, dense.reshape(-1)[positions], np.zeros(len(positions)))


def sparse_weight(dense: FloatArray, positions: Any, device: str) -> SparseWeight:
    values = torch.tensor(dense.reshape(-1)[positions], device=device, requires_grad=True)
    places = torch.tensor(positions + OFFSET, dtype=torch.int32, device=device)
    return SparseWeight(values, places, OFFSET, dense.shape, SPARSE)


def dense_weight(dense: FloatArray, device: str) -> DenseWeight:
    return DenseWeight(torch.tensor(dense, device=device, requires_grad=True))


def on_torch(x: FloatArray, device: str, memory_format: Any = torch.contiguous_format) -> Any:
    """(batch, height, width, channels) as (batch, channels, height, width); vectors as they are."""
    there = torch.tensor(x, device=device)
    there = there.permute(0, 3, 1, 2).contiguous(memory_format=memory_format) if x.ndim == 4 else there
    return there.requires_grad_()


def on_numpy(x: Any) -> FloatArray:
    host: FloatArray = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().cpu().numpy()
    return host


def check(
    forward: Callable[[Any, Any, list[Any]], Any],
    x: FloatArray,
    of_numpy: list[Any],
    of_torch: list[Any],
    device: str,
    memory_format: Any = torch.contiguous_format,
) -> None:
    """The output and, for a random linear function of it, all gradients are NumPy's."""
    tape, there = Tape(), operations.Tensor(x)
    ops = operations.NumpyOperations(MACHINE, tape, normalization.of_batch)
    expected = forward(ops, there, of_numpy)
    given_ = on_torch(x, device, memory_format)
    output = forward(TorchOperations(by_batch), given_, of_torch)
    np.testing.assert_allclose(on_numpy(output), expected.data, rtol=1e-9, atol=1e-9)
    direction = draws(9).standard_normal(expected.data.shape)
    kept = expected.data.copy()
    tape.backward(expected, direction)
    output.backward(on_torch(direction, device).detach())
    np.testing.assert_allclose(on_numpy(given_.grad), there.gradient, rtol=1e-8, atol=1e-8)
    for weight, leaf in zip(of_numpy, of_torch, strict=True):
        if isinstance(weight, weights.WeightView):
            values = leaf.values if isinstance(leaf, SparseWeight) else leaf.tensor()
            np.testing.assert_allclose(values.grad.cpu().numpy().reshape(-1), weight.gradient, rtol=1e-8, atol=1e-8)
    assert np.isfinite(kept).all()


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[FloatArray, FloatArray, Any, int, int]:
    batch, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    height, width = (draw(st.integers(max(1, side - 2 * padding), 6)) for side in kernel)
    rng = draws(draw(st.integers(0, 2**32)))
    x, dense = rng.standard_normal((batch, height, width, channels)), rng.standard_normal((outputs, channels, *kernel))
    exist = rng.random(dense.size) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return x, dense, np.flatnonzero(exist), stride, padding


@on_devices
@few
@given(case=convolutions(), memory_format=formats)
def test_convolution_and_its_gradients_equal_numpy_s(device: str, case: Any, memory_format: Any) -> None:
    x, dense, positions, stride, padding = case

    def forward(ops: Any, x: Any, weight: list[Any]) -> Any:
        return ops.conv2d(x, weight[0], stride=stride, padding=padding)

    sparse = [numpy_weight(dense, positions)], [sparse_weight(dense, positions, device)]
    whole = [numpy_weight(dense, np.arange(dense.size))], [dense_weight(dense, device)]
    for of_numpy, of_torch in (sparse, whole):
        check(forward, x, of_numpy, of_torch, device, memory_format)


@on_devices
@few
@given(
    batch=st.integers(1, 4),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    biased=st.booleans(),
)
def test_linear_and_its_gradients_equal_numpy_s(
    device: str, batch: int, inputs: int, outputs: int, density: float, biased: bool
) -> None:
    rng = draws(batch + inputs)
    x, dense, shift = rng.standard_normal((batch, inputs)), rng.standard_normal((outputs, inputs)), rng.random(outputs)
    positions = np.flatnonzero(rng.random(dense.size) < density)
    some = np.arange(0, outputs, 2)

    def forward(ops: Any, x: Any, weights: list[Any]) -> Any:
        return ops.linear(x, weights[0], weights[1] if biased else None)

    count = 2 if biased else 1
    sparse = [numpy_weight(dense, positions), numpy_weight(shift, some)]
    check(
        forward,
        x,
        sparse[:count],
        [sparse_weight(dense, positions, device), sparse_weight(shift, some, device)][:count],
        device,
    )
    whole = [numpy_weight(dense, np.arange(dense.size)), numpy_weight(shift, np.arange(outputs))]
    check(forward, x, whole[:count], [dense_weight(dense, device), dense_weight(shift, device)][:count], device)


@st.composite
def activations(draw: st.DrawFn) -> FloatArray:
    """Images or vectors, of at least two examples."""
    sides = draw(st.sampled_from([(), (1, 1), (2, 3), (4, 1)]))
    shape = (draw(st.integers(2, 12)), *sides, draw(st.integers(1, 4)))
    return 3 * draws(draw(st.integers(0, 2**32))).standard_normal(shape) + 5


@on_devices
@few
@given(x=activations(), memory_format=formats)
def test_batch_norm_gradients_and_running_statistics_equal_numpy_s(
    device: str, x: FloatArray, memory_format: Any
) -> None:
    channels = x.shape[-1]
    rng = draws(channels)
    scale, shift, mean, variance = (rng.random(channels) + 0.5 for _ in range(4))
    every = np.arange(channels)
    running = [torch.tensor(mean, device=device), torch.tensor(variance, device=device)]
    check(
        lambda ops, x, weights: ops.batch_norm(x, *weights),
        x,
        [numpy_weight(scale, every), numpy_weight(shift, every), mean, variance],
        [dense_weight(scale, device), dense_weight(shift, device), *running],
        device,
        memory_format,
    )
    np.testing.assert_allclose(running[0].cpu().numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(running[1].cpu().numpy(), variance, rtol=1e-10)


@on_devices
@few
@given(x=activations())
def test_batch_norm_in_evaluation_uses_running_statistics_and_leaves_them(device: str, x: FloatArray) -> None:
    channels = x.shape[-1]
    scale, shift, mean, variance = (draws(channels + i).random(channels) + 0.5 for i in range(4))
    running = [torch.tensor(mean, device=device), torch.tensor(variance, device=device)]
    ops = TorchOperations(by_running)
    output = ops.batch_norm(on_torch(x, device), dense_weight(scale, device), dense_weight(shift, device), *running)
    np.testing.assert_allclose(on_numpy(output), (x - mean) / np.sqrt(variance + 1e-5) * scale + shift, atol=1e-12)
    np.testing.assert_array_equal(running[0].cpu(), mean)
    np.testing.assert_array_equal(running[1].cpu(), variance)


@on_devices
@few
@given(x=activations(), memory_format=formats)
def test_relu_adding_pooling_and_flattening_and_their_gradients_equal_numpy_s(
    device: str, x: FloatArray, memory_format: Any
) -> None:
    x = x - 5
    check(lambda ops, x, _: ops.add(ops.relu(x), x), x, [], [], device, memory_format)
    if x.ndim == 4:
        check(lambda ops, x, _: ops.global_average_pool(x), x, [], [], device, memory_format)
        check(lambda ops, x, _: ops.flatten(x), x, [], [], device, memory_format)


@on_devices
def test_relu_is_zero_and_has_no_gradient_up_to_zero(device: str) -> None:
    x = torch.tensor([[-2.0, -0.0, 0.0, 3.0]], device=device, requires_grad=True)
    output = TorchOperations(by_batch).relu(x)
    output.sum().backward()
    assert output.tolist() == [[0, 0, 0, 3]]
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 0, 1]]


@on_devices
@pytest.mark.parametrize("needs_x", [True, False])
def test_gradients_of_sparse_layers_are_those_of_central_differences(device: str, needs_x: bool) -> None:
    rng = draws(0)
    kernel = sparse_weight(rng.standard_normal((2, 3, 3, 3)), np.arange(0, 54, 4), device)
    matrix = sparse_weight(rng.standard_normal((4, 2)), np.array([0, 3, 6]), device)
    x = torch.tensor(rng.standard_normal((2, 3, 4, 4)), device=device, requires_grad=needs_x)

    def function(x: Any, kernel_values: Any, matrix_values: Any) -> Any:
        first = SparseWeight(kernel_values, kernel.positions, OFFSET, kernel.shape, SPARSE)
        second = SparseWeight(matrix_values, matrix.positions, OFFSET, matrix.shape, SPARSE)
        y = first.conv2d(x, 2, 1).mean((2, 3))
        return second.linear(y, None) + second.tensor().sum(1)

    assert torch.autograd.gradcheck(function, (x, kernel.values, matrix.values))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which torch compares itself
@on_devices
def test_custom_operators_pass_torch_s_opcheck(device: str) -> None:
    weight = sparse_weight(draws(0).standard_normal((2, 3, 3, 3)), np.arange(0, 54, 4), device)
    x = on_torch(draws(1).standard_normal((2, 4, 4, 3)), device, torch.channels_last)
    arguments = (weight.values, weight.positions, OFFSET, weight.shape)
    library = torch.ops.sparsecore
    torch.library.opcheck(library.conv2d.default, (x, *arguments, 1, 1))
    torch.library.opcheck(library.dense.default, arguments)
    matrix = sparse_weight(draws(0).standard_normal((2, 3)), np.array([1, 2]), device)
    arguments = (matrix.values, matrix.positions, OFFSET, matrix.shape)
    torch.library.opcheck(library.linear.default, (on_torch(draws(1).standard_normal((4, 3)), device), *arguments))


@on_devices
def test_nothing_dense_is_kept_for_the_backward_pass(device: str) -> None:
    weight = sparse_weight(draws(0).standard_normal((32, 16, 3, 3)), np.arange(0, 4608, 100), device)
    x = on_torch(draws(1).standard_normal((1, 3, 3, 16)), device)
    kept: list[int] = []

    def noted(tensor: Any) -> Any:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        weight.conv2d(x, 1, 1).sum().backward()
    assert sorted(kept) == [len(weight.values), len(weight.values), x.numel()]


@on_devices
def test_sparse_layers_compute_in_bfloat16_under_autocast_and_their_gradients_are_in_single_precision(
    device: str,
) -> None:
    dense = draws(0).standard_normal((4, 3, 3, 3))
    weight = sparse_weight(dense, np.arange(0, dense.size, 2), device)
    weight.values = weight.values.detach().float().requires_grad_()
    x = on_torch(draws(1).standard_normal((2, 5, 5, 3)), device).detach().float().requires_grad_()
    ops = TorchOperations(by_batch)
    with torch.autocast(device, torch.bfloat16):
        output = ops.conv2d(x, weight, padding=1)
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    lowered = weight.values.grad
    weight.values.grad = None
    exact = ops.conv2d(x, weight, padding=1)
    exact.square().sum().backward()
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered, weight.values.grad, rtol=0.05, atol=0.5)
    torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.1)


@on_devices
def test_mismatched_shapes_raise_one_error_sentence(device: str) -> None:
    ops = TorchOperations(by_batch)
    kernel = dense_weight(np.zeros((1, 1, 3, 3)), device)
    with pytest.raises(InputError, match="kernel of 3×3 does not fit into images of 2×4 pixels"):
        ops.conv2d(on_torch(np.zeros((1, 2, 4, 1)), device), kernel)
    with pytest.raises(InputError, match=r"same shape; given \(2, 3\) and \(2, 1\)"):
        ops.add(on_torch(np.zeros((2, 3)), device), on_torch(np.zeros((2, 1)), device))
    vector, moments = dense_weight(np.ones(2), device), torch.zeros(2, device=device)
    with pytest.raises(InputError, match="more than one value a channel"):
        ops.batch_norm(on_torch(np.zeros((1, 2)), device), vector, vector, moments, moments)


@st.composite
def plans(draw: st.DrawFn) -> tuple[NDArray[np.uint8], Batch]:
    height, width, channels = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    padding, batch = draw(st.integers(0, min(height, width) - 1)), draw(st.integers(1, 6))
    rng = draws(draw(st.integers(0, 2**32)))
    images = rng.integers(0, 256, (9, height, width, channels), np.uint8)
    flips = rng.random(batch) < draw(st.sampled_from([0.0, 0.5]))
    return images, Batch(rng.integers(0, 9, batch), rng.integers(0, 2 * padding + 1, (batch, 2)), flips, padding)


@on_devices
@few
@given(case=plans())
def test_augmentation_on_the_device_equals_numpy_s_bit_for_bit(
    device: str, case: tuple[NDArray[np.uint8], Batch]
) -> None:
    images, plan = case
    pictures = DeviceSplit.of(Split(images, np.arange(9)), torch.device(device))
    crops, labels = pictures.batch(plan)
    assert crops.dtype == torch.uint8
    np.testing.assert_array_equal(crops.cpu().numpy(), augmented(images, plan))
    np.testing.assert_array_equal(labels.cpu().numpy(), plan.rows)


@on_devices
def test_padding_beyond_the_images_is_refused_on_the_device_too(device: str) -> None:
    pictures = DeviceSplit.of(Split(np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int64)), torch.device(device))
    with pytest.raises(InputError, match="cannot be padded by 3"):
        pictures.batch(Batch(np.zeros(1, np.int64), np.zeros((1, 2), np.int64), np.zeros(1, np.bool_), 3))
