"""Gradients of active weights and of candidates in usual loops, in every storage, with and without the kernels."""

from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradient_examples import Seen, SeenInEveryStep
from sparsify_examples import assert_inactive_is_zero, loss_at, mlp, sgd, step_in

from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export

HAS_KERNELS = find_spec("sparsecore_cpu") and find_spec("sparsecore_cpu._kernels")
WAYS = [(way, "dense") for way in ("plain", "closure", "scaled", "scaled, fused", "accumulated")]


def reference(training, number, way):
    """The dense gradients of a plain copy of the model, joined in the order of the layout."""
    plain = export.squashed_copy(training)
    for _ in range(2 if way == "accumulated" else 1):
        loss = loss_at(plain, number)
        (loss / 2 if way == "accumulated" else loss).backward()
    named = dict(plain.named_parameters())
    return torch.cat([named[name].grad.flatten() for name in training.topology.layout.names]).numpy()


@pytest.mark.parametrize(("way", "kernels"), [*WAYS, *([("plain", "sparse")] if HAS_KERNELS else [])])
@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_strategies_see_the_gradients_that_they_ask_for_and_no_others(way, storage, kernels):
    model, strategy, always = mlp(), Seen(), SeenInEveryStep()
    optimizer = sgd(model, weight_decay=0.0, fused="fused" in way)
    stack = [always, strategy]
    training = sparsify(model, optimizer, strategy=stack, sparsity=0.75, storage=storage, kernels=kernels)
    scaler = torch.amp.GradScaler("cpu", enabled="scaled" in way)

    for number in range(4):
        expected, before = reference(training, number, way), training.topology
        step_in(way, model, optimizer, scaler, number)
        close = {"rtol": 1e-4, "atol": 1e-6}
        np.testing.assert_allclose(always.seen[-1], expected[before.host_positions], **close)
        if storage == "masked":
            assert_inactive_is_zero(model, optimizer, training)
        if number % 2:
            seen = strategy.seen[-1]
            np.testing.assert_array_equal(seen["positions"], before.host_positions)
            np.testing.assert_allclose(seen["active"], expected[seen["positions"]], **close)
            np.testing.assert_allclose(seen["of candidates"], expected[seen["candidates"]], **close)
            assert np.any(seen["of candidates"])
            assert set(training.topology.host_positions) - set(before.host_positions) <= set(seen["candidates"])
    assert training.updates == len(strategy.seen) == 2
    assert len(always.seen) == 4
    assert training._flops.dump()["sums"]["dense_gradient_steps"] == 0


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_tensor_without_a_gradient_has_zeros_and_a_frozen_one_no_candidates(storage):
    model, strategy = mlp(), Seen()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.75, storage=storage)
    if storage == "masked":
        model[2].requires_grad_(False)
    layer = training.topology.layout.names.index("2.weight")
    kept = training.topology.local("2.weight").tolist()
    for number in range(2):
        optimizer.zero_grad()
        if storage == "masked":
            loss_at(model, number).backward()
        else:  # the layer takes no part in the loss
            model[0](torch.ones(2, 6)).sum().backward()
        optimizer.step()
    first, last = training.topology.layout.offsets[layer : layer + 2]
    inside = (strategy.seen[0]["positions"] >= first) & (strategy.seen[0]["positions"] < last)
    assert not strategy.seen[0]["active"][inside].any()
    candidates = strategy.seen[0]["candidates"]
    if storage == "masked":
        assert not ((candidates >= first) & (candidates < last)).any()
        assert training.topology.local("2.weight").tolist() == kept
    else:
        assert not strategy.seen[0]["of candidates"][(candidates >= first) & (candidates < last)].any()


def test_several_groups_and_optimizers_have_gradients_of_their_own_tensors():
    model, first, second = mlp(), Seen(), Seen()
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2:].parameters(), lr=0.1)]
    training = sparsify(model, optimizers, strategy={"*": second, "0.*": first}, sparsity=0.75)
    layout = training.topology.layout
    for number in range(2):
        expected, before = reference(training, number, "plain"), training.topology
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_at(model, number).backward()
        for optimizer in optimizers:
            optimizer.step()
    size = layout.sizes[layout.index("0.weight")]
    assert before.host_positions[before.host_positions < size].tolist() == first.seen[0]["positions"].tolist()
    for seen, dense in ((first.seen[0], expected[:size]), (second.seen[0], expected[size:])):
        np.testing.assert_allclose(seen["active"], dense[seen["positions"]], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(seen["of candidates"], dense[seen["candidates"]], rtol=1e-4, atol=1e-6)


def test_active_gradients_alone_keep_no_dense_tensor():
    model, strategy = mlp(), SeenInEveryStep()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.75)
    loss_at(model, 0).backward()
    masks = training.masks()
    for name, parameter in model.named_parameters():
        assert name not in masks or not parameter.grad[~masks[name]].any()  # masked as it was accumulated
    optimizer.step()
    storage = training._alive.storage
    assert not storage._gradients._dense_gradients


def test_compact_storage_keeps_no_gradient_but_those_of_candidates():
    model, strategy = mlp(), Seen()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=[SeenInEveryStep(), strategy], sparsity=0.75, storage="compact")
    for number in range(2):
        optimizer.zero_grad()
        loss_at(model, number).backward()
        kept = training._alive.storage._weights.dense_gradients
        if number == 0:
            assert kept is None
        else:
            sizes = training.topology.counts + np.minimum(training.topology.counts // 2, training.topology.room)
            assert [len(kept._sums[index]) for index in range(len(sizes))] == sizes.tolist()
        optimizer.step()
    assert len(strategy.seen) == 1


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_after_a_step_that_has_raised_the_gradients_are_those_of_the_step_that_is_taken(storage):
    model, strategy, always = mlp(), Seen(), SeenInEveryStep()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=[always, strategy], sparsity=0.75, storage=storage)
    failing = []

    def fail(*_):
        if failing:
            raise RuntimeError(failing.pop())

    optimizer.register_step_pre_hook(fail)
    for number in range(2):
        for batch_number in (number + 5, number):
            expected, before = reference(training, batch_number, "plain"), training.topology
            optimizer.zero_grad()
            loss_at(model, batch_number).backward()
            if batch_number == number:
                optimizer.step()
            else:
                failing.append("not now")
                with pytest.raises(RuntimeError, match="not now"):
                    optimizer.step()
        np.testing.assert_allclose(always.seen[-1], expected[before.host_positions], rtol=1e-4, atol=1e-6)
    seen = strategy.seen[0]
    np.testing.assert_allclose(seen["active"], expected[seen["positions"]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen["of candidates"], expected[seen["candidates"]], rtol=1e-4, atol=1e-6)
