"""Layers on the sparse kernels compute what dense ones with masks do, whatever the shapes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

import numpy as np
from kernel_examples import CLOSE, only
from torch import nn
from torch.nn.functional import conv2d, linear, pad

from sparsecore_cpu.layer import kernels
from sparsecore_torch.sparse_training.kernels.functions import Computation, Convolutions, sparse_layer


def assert_same_gradients(outputs, expected, pairs):
    """Of a random weighting of the outputs, with respect to each pair of ours and theirs."""
    torch.testing.assert_close(outputs, expected, **CLOSE)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    ours = torch.autograd.grad((outputs * direction).sum(), [one for one, _ in pairs])
    theirs = torch.autograd.grad((expected * direction).sum(), [other for _, other in pairs])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-4)


@st.composite
def convolutions(draw):
    """A layer, and an image size that it takes."""
    sizes = st.integers(1, 5)
    kernel = draw(st.tuples(sizes, sizes))
    stride, dilation = (draw(st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    padding = draw(st.one_of(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.just("valid")))
    if stride == 1 and kernel[0] % 2 and kernel[1] % 2 and draw(st.booleans()):
        padding = "same"
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    channels = (groups * number for number in draw(st.tuples(st.integers(1, 9), st.integers(1, 9))))
    layer = nn.Conv2d(*channels, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    reach = (step * (taps - 1) + 1 for step, taps in zip(layer.dilation, kernel, strict=True))
    return layer, tuple(draw(st.integers(side, side + 12)) for side in reach)


@settings(max_examples=12, deadline=None)
@given(
    convolutions(),
    st.integers(1, 40),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
    st.sampled_from([0.0, 0.5, 0.95]),
    st.integers(1, 2),
)
def test_convolutions_equal_dense_ones_with_a_mask(given_layer, images, order, sparsity, threads):
    layer, sides = given_layer
    weight, bias = layer.weight.detach().clone(), layer.bias
    model, training = only(layer, sparsity)
    mask = training.masks()["0.weight"]
    x = torch.randn(images, layer.in_channels, *sides).contiguous(memory_format=order).requires_grad_()
    # contiguous, for torch 2.13 crashes for some grouped windows on images of one column in channels last
    same, plain = x.detach().contiguous().clone().requires_grad_(), weight.requires_grad_()
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        outputs = model(x)
        expected = conv2d(same, plain * mask, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        pairs = [(x, same), (layer.weight, plain)] + ([(layer.bias, bias)] if bias is not None else [])
        assert_same_gradients(outputs, expected, pairs)
    finally:
        torch.set_num_threads(used)


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.lists(st.integers(1, 5), max_size=2),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 0.95]),
)
def test_linear_layers_equal_dense_ones_with_a_mask(features, leading, has_bias, sparsity):
    layer = nn.Linear(*features, bias=has_bias)
    plain, bias = layer.weight.detach().clone().requires_grad_(), layer.bias
    model, training = only(layer, sparsity)
    mask = training.masks()["0.weight"]
    x = torch.randn(*leading, features[0]).requires_grad_()
    same = x.detach().clone().requires_grad_()
    pairs = [(x, same), (layer.weight, plain)] + ([(layer.bias, bias)] if has_bias else [])
    outputs = model(x)
    assert outputs.is_contiguous()
    assert_same_gradients(outputs, linear(same, plain * mask, bias), pairs)


@pytest.mark.parametrize("batch", [16, 48, 5])
def test_transposed_batches_are_read_correctly(batch):
    layer = nn.Linear(12, 7)
    model, _ = only(layer)
    transposed = torch.randn(12, batch).t().requires_grad_()
    same = transposed.detach().contiguous().requires_grad_()
    assert_same_gradients(model(transposed), linear(same, layer.weight, layer.bias), [(transposed, same)])


def test_even_kernels_with_padding_same_equal_torch_s():
    layer = nn.Conv2d(3, 4, (2, 4), padding="same")
    model, _ = only(layer)
    x = torch.randn(5, 3, 6, 7)
    expected = conv2d(pad(x, (1, 2, 0, 1)), layer.weight, layer.bias)
    torch.testing.assert_close(model(x), expected, **CLOSE)


def test_an_unbatched_image_and_an_empty_batch_are_accepted():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    model, _ = only(layer)
    x = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(model(x[0]), model(x)[0])
    assert model(x[:0]).shape == (0, 4, 6, 7)


def test_inputs_that_the_dense_layer_refuses_raise_its_error():
    model, _ = only(nn.Conv2d(3, 4, 3))
    for wrong in (torch.randn(2, 5, 6, 6), torch.randn(2, 3, 2, 2), torch.randn(2, 3, 6, 6).double()):
        with pytest.raises(RuntimeError):
            model(wrong)


def test_images_of_changing_sizes_are_accepted():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    model, training = only(layer)
    for side in [*range(4, 30), 4]:
        x = torch.randn(3, 2, 5, side)
        torch.testing.assert_close(model(x), conv2d(x, layer.weight, layer.bias, padding=1), **CLOSE)
    assert training.memory().indices.measured < 100 * training.topology.size + 10_000


def test_zeros_are_not_multiplied():
    layer = nn.Linear(6, 5, bias=False)
    model, training = only(layer)
    nowhere = ~training.masks()["0.weight"].any(0)
    assert nowhere.any()
    x = torch.where(nowhere, torch.inf, torch.ones(4, 6))
    assert model(x).isfinite().all()


@pytest.mark.parametrize("stride", [1, 2])
def test_each_gradient_is_the_same_alone_and_with_the_others(stride):
    layer = nn.Conv2d(4, 5, 3, stride, padding=1)
    model, _ = only(layer)
    x = torch.randn(7, 4, 6, 6, requires_grad=True)
    direction = torch.randn(model(x).shape)
    wanted = [x, layer.weight, layer.bias]
    together = torch.autograd.grad((model(x) * direction).sum(), wanted)
    for number, one in enumerate(wanted):
        for other in wanted:
            other.requires_grad_(other is one)
        (alone,) = torch.autograd.grad((model(x) * direction).sum(), one)
        torch.testing.assert_close(alone, together[number])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_layer_without_any_weight_gives_its_bias(stride):
    layer = nn.Conv2d(2, 3, 3, stride, padding=1)
    kind = Convolutions(kernels())
    computation = Computation(kind.layer(layer, np.empty(0, np.int64)), kind)
    x, values = torch.randn(4, 2, 6, 6, requires_grad=True), torch.empty(0, requires_grad=True)
    outputs = sparse_layer(x, values, layer.bias, computation)
    torch.testing.assert_close(outputs, layer.bias[:, None, None].expand(outputs.shape))
    outputs.sum().backward()
    assert not x.grad.any()
    assert values.grad.shape == (0,)
