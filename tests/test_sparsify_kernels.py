"""``sparsify(..., kernels="sparse")``: whole runs, and what else people do with their models."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from kernel_examples import CLOSE, STORAGES, convnet, only, pictures, started, train
from pairwise import every_other
from torch import nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training import export


class DenseLayers(TorchFunctionMode):
    """Counts the convolutions and linear layers that torch computes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function in {torch.conv2d, nn.functional.linear}
        return function(*args, **(kwargs or {}))


@every_other(strategy=["set", "dpr", "gradient", "deepr"], storage=STORAGES)
def test_training_equals_that_of_dense_kernels_within_rounding(strategy, storage):
    results = {}
    for kernels in ("dense", "sparse"):
        model, optimizer, training = started(kernels, storage, strategy)
        results[kernels] = train(model, optimizer, 12), training
    (losses, dense), (ours, sparse) = results["dense"], results["sparse"]
    np.testing.assert_allclose(ours, losses, rtol=1e-4)
    assert torch.equal(sparse.topology.positions, dense.topology.positions)
    torch.testing.assert_close(sparse.values(), dense.values(), **CLOSE)
    assert sparse.updates == dense.updates >= 2


@pytest.mark.parametrize("storage", STORAGES)
def test_layers_run_dense_only_in_steps_that_need_the_dense_gradient(storage):
    model, optimizer, training = started("sparse", storage, "gradient")
    counts = []
    for _ in range(6):
        with DenseLayers() as dense:
            train(model, optimizer, 1)
        counts.append((dense.count, training.updates))
    # the dense layers of the model are one convolution; its other five run through the kernels
    assert counts == [(0, 0), (0, 0), (0, 0), (0, 0), (5, 1), (0, 1)]


@pytest.mark.parametrize("storage", STORAGES)
def test_evaluation_and_training_compute_the_same(storage):
    model, optimizer, training = started("sparse", storage)
    train(model, optimizer, 6)
    images, _ = pictures(50)
    plain = export.squashed_copy(training)
    for copied in (model, plain):
        copied.eval()
    expected = plain(images)
    with torch.no_grad(), DenseLayers() as dense:
        torch.testing.assert_close(model(images), expected, **CLOSE)
    with torch.inference_mode(), dense:
        torch.testing.assert_close(model(images), expected, **CLOSE)
    assert dense.count == 0


@pytest.mark.parametrize("storage", STORAGES)
def test_copies_use_dense_kernels_and_compute_the_same(storage):
    model, _, _ = started("sparse", storage)
    model.eval()
    copied = copy.deepcopy(model)
    images, _ = pictures(0)
    with DenseLayers() as dense:
        torch.testing.assert_close(copied(images), model(images), **CLOSE)
    assert dense.count == 5
    with torch.no_grad():
        next(copied.parameters()).add_(1.0)
    assert not torch.allclose(copied(images), model(images))


def test_a_model_is_pickled_as_a_plain_one():
    model, _, _ = started("sparse")
    written = io.BytesIO()
    torch.save(model, written)
    read = torch.load(io.BytesIO(written.getvalue()), weights_only=False)
    assert [type(module) for module in read] == [type(module) for module in convnet()]


@pytest.mark.parametrize("storage", STORAGES)
def test_state_dicts_equal_those_of_dense_kernels_and_resume(storage):
    model, optimizer, training = started("sparse", storage)
    train(model, optimizer, 6)
    saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, training)])
    whole = train(model, optimizer, 6)
    for kernels in ("sparse", "dense"):
        parts = started(kernels, storage)
        for part, content in zip(parts, copy.deepcopy(saved), strict=True):
            part.load_state_dict(content)
        np.testing.assert_allclose(train(*parts[:2], 6), whole, rtol=0 if kernels == "sparse" else 1e-4)


@pytest.mark.parametrize("storage", STORAGES)
def test_after_squash_the_model_is_plain_again(storage):
    model, optimizer, training = started("sparse", storage)
    train(model, optimizer, 6)
    training.squash()
    assert [type(module) for module in model] == [type(module) for module in convnet()]
    assert model.state_dict().keys() == convnet().state_dict().keys()
    train(model, optimizer, 1)


@pytest.mark.parametrize("storage", STORAGES)
def test_checkpointed_passes_have_the_same_gradients(storage):
    images, labels = pictures(0)
    gradients = []
    for run in (lambda model: model(images), lambda model: checkpoint(model, images, use_reentrant=False)):
        model, _, _ = started("sparse", storage)
        cross_entropy(run(model), labels).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_accumulated_gradients_are_sums():
    layer = nn.Linear(6, 4)
    model, _ = only(layer)
    x = torch.randn(5, 6)
    model(x).square().sum().backward()
    once = layer.weight.grad.clone()
    model(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, 2 * once)


@pytest.mark.parametrize("storage", STORAGES)
def test_changing_a_weight_before_its_backward_pass_raises_an_error(storage):
    model, _, _ = started("sparse", storage)
    loss = model(pictures(0)[0]).sum()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused():
    model, _ = only(nn.Linear(6, 4))
    x = torch.randn(5, 6, requires_grad=True)
    with pytest.raises(InputError, match=r"differentiated once.*take kernels='dense'"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("storage", STORAGES)
def test_under_autocast_layers_compute_in_float32(storage):
    model, _, _ = started("sparse", storage, "gradient")
    images, labels = pictures(0)
    x = images.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model[0](x)
        loss = cross_entropy(model(x), labels)
    assert outputs.dtype is torch.float32
    torch.testing.assert_close(outputs, model[0](x.float()))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_outputs_have_torch_s_memory_format():
    model, _ = only(nn.Conv2d(3, 4, 3, padding=1))
    images = torch.randn(5, 3, 6, 6)
    assert model(images).is_contiguous()
    last = images.to(memory_format=torch.channels_last).requires_grad_()
    outputs = model(last)
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(outputs.sum(), last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_weights_in_channels_last_train_like_others():
    losses = []
    for order in (torch.contiguous_format, torch.channels_last):
        model, optimizer, _ = started("sparse", order=order)
        losses.append(train(model, optimizer, 6))
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo reads it of each input of a frame
def test_a_compiled_model_trains_the_same():
    model, optimizer, _ = started("sparse")
    plain = train(model, optimizer, 6)
    model, optimizer, _ = started("sparse")
    compiled = train(torch.compile(model, backend="eager"), optimizer, 6)  # layer by layer, and not in regions
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit.* is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [torch.jit.trace, lambda *of: torch.export.export(*of).module()])
def test_tracing_and_export_use_the_dense_layer(make):
    model, _, _ = started("sparse")
    model.eval()
    images, others = pictures(0)[0], pictures(1)[0]
    made = make(model, (images,))
    with DenseLayers() as dense:
        expected = model(others)
    assert dense.count == 0
    torch.testing.assert_close(made(others), expected, **CLOSE)
