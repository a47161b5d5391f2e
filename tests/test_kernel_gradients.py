"""Gradients that the sparse kernels make of the active weights, and how masked storage takes them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from kernel_examples import always, started
from sparsify_examples import sgd
from torch import nn

from sparsecore.engine.topology import Layout, Topology
from sparsecore_torch import TorchArrays, sparsify
from sparsecore_torch.arrays import memory_offsets, put_entries
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask
from sparsecore_torch.sparse_training.storage.sparse_weights import SparseWeight

few = settings(max_examples=50, deadline=None)


@st.composite
def stored(draw):
    """A tensor of distinct entries whose sides lie in memory in any order, and some of its row-major indices."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(shape))))
    memory = torch.arange(float(math.prod(shape))).view([shape[side] for side in order])
    tensor = memory.permute([order.index(side) for side in range(len(shape))])
    indices = draw(st.sets(st.integers(0, tensor.numel() - 1)).map(sorted))
    return tensor, np.array(indices, draw(st.sampled_from([np.int32, np.int64])))


@few
@given(given=stored())
def test_offsets_of_entries_are_where_they_lie_in_memory(given):
    tensor, indices = given
    offsets = memory_offsets(torch.from_numpy(indices), tensor)
    # an entry's value is its place in memory
    assert offsets.tolist() == tensor.numpy().ravel()[indices].astype(int).tolist()
    written = tensor.clone(memory_format=torch.preserve_format)
    put_entries(written, torch.from_numpy(indices).long(), torch.from_numpy(-1.0 - indices))
    put_entries(written, torch.from_numpy(indices[:1]).long(), 7.0)
    expected = tensor.numpy().copy()
    expected.flat[indices] = -1.0 - indices
    expected.flat[indices[:1]] = 7.0
    np.testing.assert_array_equal(written.numpy(), expected)


@few
@given(given=stored(), more=st.integers(0, 2))
def test_entries_are_read_and_their_gradients_are_written_in_the_memory_format_of_the_weight(given, more):
    tensor, indices = given
    layout = Layout.of({"other": (3,), "weight": tuple(tensor.shape)})
    positions = torch.from_numpy(indices.astype(np.int32)) + 3
    weight = SparseWeight("weight", Topology.of(layout, positions, TorchArrays()), lambda: None)
    np.testing.assert_array_equal(weight.entries(tensor).numpy(), tensor.numpy().ravel()[indices])
    gradient, entries = None, torch.arange(1.0, len(indices) + 1)
    for _ in range(1 + more):
        gradient = weight.add_to(tensor, gradient, entries)
    expected = np.zeros(tensor.shape)
    expected.flat[indices] = (1 + more) * np.arange(1, len(indices) + 1)
    np.testing.assert_array_equal(gradient.numpy(), expected)
    assert gradient.stride() == tensor.clone(memory_format=torch.preserve_format).stride()
    assert weight.count == len(indices)
    assert weight.has_made(gradient)
    gradient[...] = 1.0
    assert not weight.has_made(gradient)


def test_a_gradient_at_the_address_of_a_freed_one_is_not_taken_for_it():
    layout = Layout.of({"weight": (64,)})
    weight = SparseWeight("weight", Topology.of(layout, torch.tensor([3], dtype=torch.int32), TorchArrays()), print)
    for _ in range(20):
        weight.add_to(torch.zeros(64), None, torch.ones(1))
        others = [torch.zeros(64).add_(1.0) for _ in range(4)]  # written to once, as that gradient was
        assert not any(weight.has_made(other) for other in others)


@pytest.fixture
def masked_tensors(monkeypatch):
    """The tensors that masks are applied to."""
    tensors = []

    def fill(self, tensor, fill=BitMask.fill):
        tensors.append(tensor)
        fill(self, tensor)

    monkeypatch.setattr(BitMask, "fill", fill)
    return tensors


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_gradients_of_the_kernels_are_neither_masked_nor_copied(order, is_compiled, masked_tensors):
    model, optimizer, training = started("sparse", order=order)
    always(training)
    x = torch.randn(4, 3, 9, 9).to(memory_format=order)
    run = model if is_compiled else lambda given: nn.Sequential.forward(model, given)
    for _ in range(2):  # the first step makes the state of the optimizer
        masked_tensors.clear()
        optimizer.zero_grad()
        run(x).square().mean().backward()
        assert not masked_tensors
        for name, mask in training.masks().items():
            parameter = model.get_parameter(name)
            assert parameter.grad.stride() == parameter.stride()
            assert parameter.grad[mask].any()
            assert not parameter.grad[~mask].any()
        optimizer.step()
    assert not masked_tensors


def _dense_result(gradient):
    return torch.ones_like(gradient)


def _uncounted_write(gradient):
    gradient.data.add_(1.0)


def _counted_write(gradient):
    gradient.detach().add_(1.0)


def _through_numpy(gradient):
    gradient.numpy()[...] = 1.0


@pytest.mark.parametrize("disturb", [None, _dense_result, _uncounted_write, _counted_write, _through_numpy])
@pytest.mark.parametrize("passes", [1, 2])
def test_whatever_a_hook_does_inactive_gradients_are_zero(disturb, passes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False))
    training = sparsify(model, sgd(model), strategy="static", sparsity=0.5, include="*weight", kernels="sparse")
    always(training)
    if disturb is not None:
        model[0].weight.register_hook(disturb)
    for _ in range(passes):
        model(torch.randn(32, 12)).square().mean().backward()
    for name, mask in training.masks().items():
        gradient = model.get_parameter(name).grad
        assert gradient[mask].any()
        assert not gradient[~mask].any()
