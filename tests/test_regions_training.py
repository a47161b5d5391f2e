"""Models that run in regions do what torch's models do: hooks, checkpoints, threads, other optimizers, an end."""

import copy
import gc
import pickle
import threading
import weakref

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from kernel_examples import STORAGES
from pairwise import every_pair
from region_examples import MODELS, sparse
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparsecore_torch.sparse_training.regions import region
from sparsecore_torch.sparse_training.storage import sparse_weights


def images(count=6):
    return torch.linspace(-3, 4, count * 3 * 64).sin().reshape(count, 3, 8, 8)


def gradients(model, training):
    masks = training.masks()
    return {name: one.grad * masks.get(name, 1) for name, one in model.named_parameters() if one.grad is not None}


class Checkpointed(nn.Module):
    """A network whose first part is computed again in the backward pass; it has running statistics."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.last(checkpoint(self.part, x, use_reentrant=False)).mean((2, 3))


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_checkpoint_in_a_model_computes_a_part_again(storage, by_hand):
    found = []
    for kernels in ("dense", "sparse"):
        torch.manual_seed(0)
        model = Checkpointed()
        training = sparse(model, storage, kernels=kernels)
        if not by_hand:
            training.routes.decisions.rules.clear()
        before = set(region._tokens)
        out = model(images())
        if kernels == "sparse" and by_hand:
            assert sum(len(cut.regions) for cut in training.routes.cuts) == 2
            assert len(set(region._tokens) - before) == 1  # that of the last layer
        out.square().sum().backward()
        found.append((out.detach(), gradients(model, training), model.part[1].running_var))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@every_pair(storage=STORAGES, is_reentrant=[True, False], by_hand=[True, False])
def test_a_checkpoint_around_a_model_frees_what_its_regions_keep(storage, is_reentrant, by_hand):
    model, _ = MODELS["residual"]()
    training = sparse(model, storage)
    if not by_hand:
        training.routes.decisions.rules.clear()
    x, before = images().requires_grad_(), set(region._tokens)
    out = checkpoint(model, x, use_reentrant=is_reentrant)
    assert not set(region._tokens) - before
    out.square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("storage", STORAGES)
def test_a_layer_on_its_own_is_measured_within_a_checkpoint(storage):
    """What is saved in the measured runs is not of the checkpoint, which would miss it when it computes again."""
    model, _ = MODELS["residual"]()
    training = sparse(model, storage)
    training.routes.decisions.rules.clear()
    x = images().requires_grad_()
    checkpoint(model.stem, x, use_reentrant=False).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert training.routes.decisions.made


def test_hooks_run_that_modules_are_given_after_they_were_compiled():
    model, inputs = MODELS["residual"]()
    sparse(model)
    model(*inputs)
    seen = []
    handles = [
        model.norms[0].register_forward_hook(lambda *_: seen.append("after")),
        model.two.register_forward_pre_hook(lambda *_: seen.append("before")),
        model.four.register_full_backward_hook(lambda *_: seen.append("backward")),
        model.head.register_forward_hook(lambda module, given, out: out * 0),  # noqa: ARG005
    ]
    out = model(*inputs)
    out.sum().backward()
    assert not out.any()
    assert set(seen) == {"after", "before", "backward"}
    for handle in handles:
        handle.remove()
    seen.clear()
    assert model(*inputs).any()
    assert not seen


@pytest.mark.parametrize("storage", [pytest.param("masked", marks=pytest.mark.slow), "compact"])
def test_regions_compute_on_with_another_optimizer_and_in_another_training(storage):
    model, inputs = MODELS["residual"]()
    training = sparse(model, storage)
    model(*inputs).sum().backward()
    training.follow(torch.optim.AdamW(model.parameters(), lr=1e-3))
    gc.collect()
    model(*inputs)
    assert len(training.routes.cuts[-1].regions) == 1
    training.squash()
    expected = model(*inputs)
    assert type(model).__bases__ == (nn.Module,)
    again = sparse(model, storage, start="nonzero")
    del training
    gc.collect()
    torch.testing.assert_close(model(*inputs), expected, rtol=1e-3, atol=1e-4)
    assert len(again.routes.cuts[-1].regions) == 1


def test_models_are_freed_with_all_that_was_compiled():
    model, inputs = MODELS["residual"]()
    training = sparse(model)
    model(*inputs).sum().backward()
    kept = [weakref.ref(model), weakref.ref(training.routes.cuts[0].regions[0])]
    del model, training
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_several_trainings_of_a_model_share_its_regions_and_end_in_any_order(order):
    model, inputs = MODELS["residual"]()
    names = [name for name, one in model.named_parameters() if one.ndim > 1]
    own = {0: names[:2], 1: names[2:]}
    trainings = [sparse(model, include=included) for included in own.values()]
    for ended in (None, *order):
        if ended is not None:
            trainings[ended].squash()
            del own[ended]
        expected = copy.deepcopy(model)(*inputs)
        torch.testing.assert_close(model(*inputs), expected, rtol=1e-4, atol=1e-5)
        for number in own:
            regions = [one for made in trainings[number].routes.cuts for one in made.regions]
            assert {name for one in regions for name in one.tensors} == {name for one in own.values() for name in one}


@pytest.mark.parametrize("storage", STORAGES)
def test_several_threads_call_one_model(storage):
    model, inputs = MODELS["residual"]()
    sparse(model, storage=storage)
    model.eval()
    expected = model(*inputs).detach()
    failed = []

    def call(count):
        try:
            for _ in range(5):
                with torch.no_grad():
                    torch.testing.assert_close(model(inputs[0][:count]), expected[:count], rtol=1e-4, atol=1e-5)
                model(*inputs).sum().backward()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=call, args=(count,)) for count in (3, 4, 5)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed
    assert not sparse_weights.IS_CUTTING


def test_copies_and_replicas_run_by_themselves():
    model, inputs = MODELS["residual"]()
    sparse(model)
    expected = model(*inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        torch.testing.assert_close(other(*inputs), expected, rtol=1e-4, atol=1e-5)
    replica = type(model).__new__(type(model))
    replica.__dict__ = {**model.__dict__, "_modules": {**model._modules, "head": nn.Flatten()}}
    assert replica(*inputs).shape == (9, 12)


def test_a_default_device_does_not_end_regions():
    model, inputs = MODELS["residual"]()
    training = sparse(model)
    with torch.device("cpu"):
        model(*inputs)
    assert [len(cut.regions) for cut in training.routes.cuts] == [1]


@pytest.mark.parametrize("of_torch", [False, True])
def test_a_model_runs_in_regions_where_torch_has_given_up_compiling_others_of_its_class(of_torch):
    def made():
        model, inputs = MODELS["residual"]()
        return (nn.Sequential(model, nn.ReLU()) if of_torch else model), inputs

    for _ in range(2):
        model, inputs = made()
        with torch._dynamo.config.patch(recompile_limit=1):
            torch.compile(model, backend=lambda graph, _: graph)(*inputs)
    training = sparse(model)
    model(*inputs)
    assert [len(cut.regions) for cut in training.routes.cuts] == [1]


def test_an_error_in_the_forward_pass_is_the_user_s_and_leaves_nothing_behind():
    model, inputs = MODELS["residual"]()
    sparse(model)
    expected = model(*inputs)

    def refuse(*_):
        raise ValueError("no more")

    handle = model.four.register_forward_hook(refuse)
    with pytest.raises(ValueError, match="no more"):
        model(*inputs)
    handle.remove()
    assert not sparse_weights.IS_CUTTING
    torch.testing.assert_close(model(*inputs), expected, rtol=1e-4, atol=1e-5)
