"""``sparsify(..., start=)``: the active weights at the start are those of a model that exists already."""

import copy
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sparsify_examples import mlp, sgd
from torch import nn
from torch.nn.utils import prune

from sparsecore.errors import InputError
from sparsecore_torch import sparsify

STORAGES = ["masked", "compact"]


def pruned_mlp(share=0.7):
    """A network of which the smallest weights are zero, as after pruning."""
    torch.manual_seed(5)
    model = mlp()
    with torch.no_grad():
        for one in model.parameters():
            if one.ndim == 2:
                one[one.abs() < one.abs().flatten().kthvalue(int(share * one.numel())).values] = 0
    return model


def weights_of(training):
    values = training.values()
    return {name: values[training.topology.slots(name)] for name in training.topology.layout.names}


@pytest.mark.parametrize("storage", STORAGES)
def test_the_zeros_of_a_pruned_model_stay_and_no_kept_weight_is_lost(storage):
    model = pruned_mlp()
    before = copy.deepcopy(model)
    training = sparsify(model, sgd(model), strategy="static", start="nonzero", storage=storage)
    for name, values in weights_of(training).items():
        weight = before.get_parameter(name)
        assert torch.equal(values, weight[weight != 0])
        assert torch.equal(training.masks()[name], weight != 0)
    assert abs(training.sparsity - 0.7) < 0.02


@pytest.mark.parametrize("strategy", ["dpr", "set", "rigl"])
def test_strategies_go_on_from_the_weights_that_there_are(strategy):
    model = pruned_mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=strategy, start="nonzero", total_steps=400)
    size = training.topology.size
    for _ in range(101):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    assert training.updates >= 1
    assert training.topology.size == size


def test_the_largest_weights_of_each_tensor_are_kept():
    model = mlp()
    before = copy.deepcopy(model)
    training = sparsify(model, sgd(model), strategy="static", sparsity=0.8, start="magnitude")
    for name, mask in training.masks().items():
        kept, lost = before.get_parameter(name)[mask].abs(), before.get_parameter(name)[~mask].abs()
        assert kept.min() >= lost.max()
        assert int(mask.sum()) == int(0.2 * mask.numel())


def test_the_largest_weights_of_the_network_are_kept():
    model = mlp()
    with torch.no_grad():
        next(model.parameters()).mul_(10)
    before = copy.deepcopy(model)
    training = sparsify(model, sgd(model), strategy="static", sparsity=0.8, start="magnitude", scope="network")
    masks = training.masks()
    kept = torch.cat([before.get_parameter(name)[mask].abs() for name, mask in masks.items()])
    lost = torch.cat([before.get_parameter(name)[~mask].abs() for name, mask in masks.items()])
    # every tensor keeps at least one weight, which need not be among the largest of the network
    assert (kept < lost.max()).sum() < len(masks)
    assert all(mask.any() for mask in masks.values())


@given(st.integers(1, 60), st.integers(0, 3))
def test_equal_weights_are_kept_in_the_order_of_their_positions(count, seed):
    model = nn.Sequential(nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (8, 8))))
    weights = model[0].weight.detach().flatten().numpy().copy()
    training = sparsify(
        model, sgd(model), strategy="static", sparsity=1 - count / 64, start="magnitude", include="*weight"
    )
    expected = sorted(range(64), key=lambda position: (-abs(weights[position]), position))[: training.topology.size]
    assert training.topology.host_positions.tolist() == sorted(expected)


def test_masks_and_positions_are_taken_by_name_from_a_dict_and_from_a_file(tmp_path):
    given = pruned_mlp()
    masks = {name: one.detach() != 0 for name, one in given.named_parameters() if one.ndim == 2}
    expected = sparsify(given, sgd(given), strategy="static", start="nonzero", include=list(masks)).topology
    positions = {name: mask.flatten().nonzero().view(-1) for name, mask in masks.items()}
    save_file(masks, tmp_path / "masks.safetensors")
    save_file(positions, tmp_path / "positions.safetensors")
    for start in (masks, positions, tmp_path / "masks.safetensors", str(tmp_path / "positions.safetensors"), expected):
        model = mlp()
        names = list(masks)
        training = sparsify(model, sgd(model), strategy="static", start=start, include=names)
        for name in training.topology.layout.names:
            assert torch.equal(training.masks()[name], masks[name])


@pytest.mark.parametrize("order", ["model first", "training first"])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_saved_training_goes_on_whether_the_model_is_loaded_before_or_afterwards(storage, order):
    if storage == "compact" and order == "model first":
        pytest.skip("the state dict of a model in compact storage has no dense weights to load into a plain one")
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="set", sparsity=0.6, total_steps=300, storage=storage)
    for _ in range(120):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    saved, weights = training.state_dict(), copy.deepcopy(model.state_dict())
    other = mlp()
    if order == "model first":
        other.load_state_dict(weights)
    resumed = sparsify(other, sgd(other), strategy="set", start=saved, total_steps=300, storage=storage)
    if order == "training first":
        other.load_state_dict(weights)
    assert resumed.step == 120
    assert resumed.updates == training.updates
    assert torch.equal(resumed.values(), training.values())
    assert resumed.topology.sha256() == training.topology.sha256()


def test_masks_of_prune_are_taken_over_and_the_optimizer_keeps_its_parameters():
    model = mlp()
    optimizer = sgd(model)
    layer = next(one for one in model.modules() if isinstance(one, nn.Linear))
    prune.l1_unstructured(layer, "weight", amount=0.5)
    with torch.no_grad():
        kept = layer.weight_mask.bool()
        layer.weight_orig[kept.nonzero()[0][0], kept.nonzero()[0][1]] = 0.0  # it may grow away from zero again
    training = sparsify(model, optimizer, strategy="static", start="nonzero")
    (name,) = [name for name, one in model.named_parameters() if one is layer.weight]
    assert torch.equal(training.masks()[name], kept)
    assert not prune.is_pruned(model)
    assert any(one is layer.weight for group in optimizer.param_groups for one in group["params"])


def test_a_refusal_puts_the_masks_of_prune_back():
    model = mlp()
    layer = next(one for one in model.modules() if isinstance(one, nn.Linear))
    prune.random_unstructured(layer, "weight", amount=0.5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="DeepR"):
        sparsify(model, sgd(model), strategy="deepr", start="nonzero")
    assert prune.is_pruned(model)
    assert before.keys() == model.state_dict().keys()
    for name, one in model.state_dict().items():
        assert torch.equal(one, before[name])


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        ("largest", r"no start named 'largest'.*magnitude, nonzero, random"),
        (7, r"start is 7; expected 'random'"),
        ({}, r"no mask and no positions for .*weight; it has no entries"),
        ("absent.safetensors", r"there is no file absent\.safetensors"),
    ],
)
def test_what_is_no_start_is_refused_by_a_sentence(start, sentence):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=sentence):
        sparsify(model, sgd(model), strategy="static", start=start)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_wrong_masks_and_positions_are_refused_by_the_name_of_the_tensor():
    names = [name for name, one in mlp().named_parameters() if one.ndim == 2]
    shape = mlp().get_parameter(names[0]).shape
    wrongs = (torch.ones(3, 3), torch.tensor([0, 0]), torch.tensor([10**6]), torch.zeros(0, dtype=torch.int64))
    for wrong in (*wrongs, torch.full(shape, torch.nan)):
        model = mlp()
        good = {name: torch.ones(model.get_parameter(name).shape) for name in names}
        with pytest.raises(InputError, match=names[0].replace(".", r"\.")):
            sparsify(model, sgd(model), strategy="static", start=good | {names[0]: wrong}, include=names)


def test_a_start_has_an_entry_for_each_sparse_tensor_and_no_other():
    names = [name for name, one in mlp().named_parameters() if one.ndim == 2]
    masks = {name: torch.ones(mlp().get_parameter(name).shape) for name in names}
    misspelt = {name + "typo" * (name == names[0]): mask for name, mask in masks.items()}
    model = mlp()
    with pytest.raises(InputError, match=rf"no mask and no positions for {names[0]}; it has .*typo"):
        sparsify(model, sgd(model), start=misspelt, include=names)
    with pytest.raises(InputError, match=rf"entry for {names[0]}, which is no sparse tensor .*; sparse are {names[1]}"):
        sparsify(model, sgd(model), start=masks, include=names[1:])


def test_nonzero_weights_of_a_dense_model_are_no_sparse_start():
    model = mlp()
    with pytest.raises(InputError, match=r"no weight .* is zero.*start='magnitude'"):
        sparsify(model, sgd(model), start="nonzero")


@pytest.mark.parametrize("start", ["random", "nonzero"])
def test_a_scope_belongs_to_the_largest_weights(start):
    model = pruned_mlp()
    with pytest.raises(InputError, match="scope='network' is for start='magnitude' alone"):
        sparsify(model, sgd(model), start=start, scope="network")


def test_without_safetensors_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    model = mlp()
    with pytest.raises(ModuleNotFoundError, match=r"a start from a safetensors file .*sparsecore-engine\[torch\]"):
        sparsify(model, sgd(model), start="masks.safetensors")
