"""The memory that regions of sparse layers keep, and the gradients of several regions of one model."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from torch import nn

from sparsecore.host.computation import NullTape
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.operations import CpuOperations, of_batch
from sparsecore_cpu.pointwise import silu
from sparsecore_cpu.runtime import Form, Runtime
from sparsecore_cpu.weighted import ListCache
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.regions.execution import _resources

IMAGES, WIDTH = 64, 32


class ThreeRegions(nn.Module):
    """Linear layers with functions of torch's between them, so that each is a region."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cumsum(layer(x), 0)
        return x


def trained(storage, kernels, model=ThreeRegions):
    torch.manual_seed(0)
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    training = sparsify(
        network,
        optimizer,
        strategy="static",
        sparsity=0.5,
        storage=storage,
        kernels=kernels,
        # all layers; small ones and the last one would stay dense by default
        include="*.weight",
    )
    if kernels == "sparse":
        training.use_kernels("sparse")
    return network, training


def gradient_of(network, passes):
    generator = torch.Generator().manual_seed(1)
    for _ in range(passes):
        network(torch.randn(IMAGES, WIDTH, generator=generator)).square().mean().backward()
    return {name: one.grad for name, one in network.named_parameters()}


@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_of_several_regions_are_those_of_dense_kernels_in_compact_storage(passes):
    sparse = gradient_of(trained("compact", "sparse")[0], passes)
    dense = gradient_of(trained("compact", "dense")[0], passes)
    assert sparse.keys() == dense.keys()
    for name, gradient in dense.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(sparse[name] / scale, gradient / scale, rtol=0, atol=1e-5)


def test_a_region_called_outside_of_the_models_forward_pass_has_the_same_gradients():
    network, _ = trained("compact", "sparse")
    other, _ = trained("compact", "sparse")
    x = torch.randn(IMAGES, WIDTH)
    network(x).square().mean().backward()
    type(other).forward(other, x).square().mean().backward()
    torch.testing.assert_close(network.sparse_values.grad, other.sparse_values.grad)


def pool():
    buffers = _resources(torch.get_num_threads(), False)[0].buffers
    buffers.release(1 << 60)
    return buffers


def test_results_that_only_torch_reads_are_not_kept_in_the_layout_of_the_kernels():
    network, _ = trained("compact", "sparse")
    buffers = pool()
    before = buffers.nbytes
    out = network(torch.randn(IMAGES, WIDTH))
    # the three inputs are kept for the backward pass, and one buffer has held one result after the other
    one = buffers.take(Form.of_features(IMAGES, WIDTH)).array.nbytes
    assert buffers.nbytes - before == 4 * one
    out.sum().backward()


def test_dense_gradients_of_masks_take_the_place_of_activations_that_are_free():
    kept = {}
    for storage in ("compact", "masked"):
        network, _ = trained(storage, "sparse")
        buffers = pool()
        before = buffers.nbytes
        network(torch.randn(IMAGES, WIDTH)).sum().backward()
        kept[storage] = buffers.nbytes - before
    assert kept["masked"] < kept["compact"]


def test_released_memory_is_that_of_the_largest_free_buffers_which_calls_together_ask_for():
    buffers = Runtime.of(1).buffers
    large, small = Form.of_features(16, 1000), Form.of_features(16, 10)
    kept = buffers.take(large)
    taken = [buffers.take(large), buffers.take(small)]
    size, little = (one.array.nbytes for one in taken)
    del taken
    before = buffers.nbytes
    buffers.release(size - 1)
    assert buffers.nbytes == before - little
    buffers.release(little)
    assert buffers.nbytes == before - little
    buffers.release(1)
    assert buffers.nbytes == before - little - size
    buffers.release(0)
    assert buffers.nbytes == before - little - size
    assert not kept.array.any()


def test_an_activation_whose_memory_was_released_is_computed_again():
    runtime = Runtime.of(1)
    buffer = runtime.buffers.take(Form.of_features(16, 8))
    buffer.array[:] = np.linspace(-3, 3, buffer.array.size).reshape(buffer.array.shape)
    x = Activation(runtime, buffer.form, InputNode(buffer))
    y = silu(CpuOperations(runtime, ListCache(), NullTape(), of_batch), x)
    expected = y.buffer().inside.copy()
    y.release()
    np.testing.assert_array_equal(y.buffer().inside, expected)
