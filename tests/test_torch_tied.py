"""Operations with tied weights on torch, against tensors built from the definition, and what they keep."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from ties_oracle import convolutions, laid_out, slopes

torch = pytest.importorskip("torch")

from torch_devices import DEVICES

from sparsecore_torch.experiment.operations import (
    DenseWeight,
    TorchOperations,
    by_batch,
)

few = settings(max_examples=30, deadline=None)
on_devices = pytest.mark.parametrize("device", DEVICES)


def on_torch(values: Any, shape: tuple[int, ...], key: int) -> Any:
    return TorchOperations(by_batch).tied(DenseWeight(values), shape, key)


@on_devices
@few
@given(case=convolutions())
def test_torch_convolves_with_the_tensor_of_the_definition(device: str, case: Any) -> None:
    x, numbers, shape, key, stride, padding = case
    images = [torch.tensor(x, device=device).permute(0, 3, 1, 2).requires_grad_() for _ in range(2)]
    values = torch.tensor(numbers, device=device, requires_grad=True)
    dense = torch.tensor(laid_out(numbers, shape, key), device=device, requires_grad=True)
    outputs = (
        on_torch(values, shape, key).conv2d(images[0], stride, padding),
        torch.nn.functional.conv2d(images[1], dense, None, stride, padding),
    )
    direction = torch.tensor(np.random.default_rng(1).standard_normal(outputs[0].shape), device=device)
    for output in outputs:
        output.backward(direction)
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(images[0].grad, images[1].grad)
    expected = slopes(dense.grad.cpu().numpy().reshape(-1), len(numbers), shape, key)
    np.testing.assert_allclose(values.grad.cpu().numpy(), expected, atol=1e-10)


@on_devices
@pytest.mark.parametrize("needs_x", [True, False])
def test_gradients_on_torch_are_those_of_central_differences(device: str, needs_x: bool) -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.standard_normal((2, 3, 4, 4)), device=device, requires_grad=needs_x)
    values = torch.tensor(rng.standard_normal(11), device=device, requires_grad=True)

    def function(x: Any, values: Any) -> Any:
        y = on_torch(values, (2, 3, 3, 3), 5).conv2d(x, 2, 1).mean((2, 3))
        return on_torch(values, (4, 2), 6).linear(y, None) + on_torch(values, (4,), 7).tensor()

    assert torch.autograd.gradcheck(function, (x, values))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which torch compares itself
@on_devices
def test_custom_operators_pass_torch_s_opcheck(device: str) -> None:
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.standard_normal(11), device=device, requires_grad=True)
    images = torch.tensor(rng.standard_normal((2, 3, 4, 4)), device=device, requires_grad=True)
    vectors = torch.tensor(rng.standard_normal((2, 3)), device=device, requires_grad=True)
    on_torch(values, (1,), 0)
    library = torch.ops.sparsecore
    torch.library.opcheck(library.tied_conv2d.default, (images, values, 2**61, (2, 3, 3, 3), 1, 1))
    torch.library.opcheck(library.tied_linear.default, (vectors, values, 2**61, (2, 3)))
    torch.library.opcheck(library.tied_dense.default, (values, 2**61, (2, 3)))


@on_devices
def test_nothing_of_the_dense_size_is_kept_for_the_backward_pass(device: str) -> None:
    kept: list[int] = []
    values, x = torch.zeros(46, device=device, requires_grad=True), torch.zeros((1, 16, 3, 3), device=device)

    def noted(tensor: Any) -> Any:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        output = on_torch(values, (32, 16, 3, 3), 1).conv2d(x, 1, 1)
    assert sorted(kept) == [46, x.numel()]
    output.sum().backward()


@on_devices
def test_tied_layers_compute_in_bfloat16_under_autocast_and_gradients_are_in_single_precision(device: str) -> None:
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.standard_normal(20), device=device, dtype=torch.float32, requires_grad=True)
    x = torch.tensor(rng.standard_normal((2, 3, 5, 5)), device=device, dtype=torch.float32)
    weight = on_torch(values, (4, 3, 3, 3), 9)
    with torch.autocast(device, torch.bfloat16):
        output = weight.conv2d(x, 1, 1)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    lowered, values.grad = values.grad, None
    weight.conv2d(x, 1, 1).sum().backward()
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered, values.grad, rtol=0.05, atol=0.5)


@on_devices
def test_float32_gradients_are_the_same_every_time_on_several_threads(device: str) -> None:
    values = torch.linspace(-1, 1, 100, device=device, requires_grad=True)
    x = torch.tensor(np.random.default_rng(0).standard_normal((64, 784)), device=device, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = set()
        for _ in range(5):
            values.grad = None
            on_torch(values, (300, 784), 3).linear(x, None).square().sum().backward()
            gradients.add(values.grad.cpu().numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(gradients) == 1
