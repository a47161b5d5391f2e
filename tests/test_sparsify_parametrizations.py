"""Weight norm, spectral norm, masks and other parametrizations of weights under sparsify."""

import math

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import assert_inactive_is_zero, often, sgd
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from sparsecore.errors import InputError, LostWeightsWarning
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training.model.selection import select


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_networks_under_weight_norm_learn_without_a_nan(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), norm(nn.Linear(20, 20)), nn.ReLU(), norm(nn.Linear(20, 3)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.9)
    assert training.topology.layout.names == ("0.weight",)
    inputs, labels = torch.randn(32, 6), torch.arange(32) % 3
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert_inactive_is_zero(model, optimizer, training)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("norm", "include"),
    [
        (parametrizations.weight_norm, "*"),
        (parametrizations.weight_norm, "*original1"),
        (nn.utils.weight_norm, "*weight_g"),
        (nn.utils.weight_norm, "*weight_v"),
        (parametrizations.orthogonal, "*original"),
    ],
)
def test_weights_that_do_not_keep_zeros_are_refused_when_requested(norm, include):
    model = nn.Sequential(norm(nn.Linear(6, 6)), nn.Linear(6, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"0\..*(magnitude|0/0|not zero).*exclude="):
        sparsify(model, sgd(model), include=include)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_parametrization_that_keeps_zeros_is_trained_sparsely():
    class Halved(nn.Module):
        def forward(self, weight):
            return weight / 2

    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    register_parametrization(model[0], "weight", Halved())
    training = sparsify(model, sgd(model), sparsity=0.5)
    assert training.topology.layout.names == ("0.parametrizations.weight.original",)
    assert int((model[0].weight != 0).sum()) == 18


def test_probing_a_random_parametrization_restores_the_random_generator():
    class Noisy(nn.Module):
        def forward(self, weight):
            return weight * torch.rand(())

    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    register_parametrization(model[0], "weight", Noisy())
    before = torch.get_rng_state()
    select(model)
    assert torch.equal(torch.get_rng_state(), before)


class _Mask(nn.Module):
    """As torch.ao.pruning has it."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", (torch.rand_like(weight) > 0.8).float())

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_masked_by_torch_prune_are_refused_with_the_remedy(name):
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 40), nn.Linear(40, 3))
    prune.l1_unstructured(model[1], "weight", 0.8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"1\.weight_orig.*prune\.remove.*exclude="):
        sparsify(model, sgd(model), sparsity=0.8)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [one.name for one in select(model, exclude="1.*").sparse] == ["0.weight"]
    prune.remove(model[1], "weight")
    if name == "bias":  # a mask on what stays dense is no second one
        prune.random_unstructured(model[1], "bias", 0.5)
    with pytest.warns(LostWeightsWarning):  # the zeros of the first mask are values now
        training = sparsify(model, sgd(model), sparsity=0.8)
    assert math.isclose(training.sparsity, 0.8, abs_tol=0.01)
    assert training.topology.layout.names == ("0.weight", "1.weight")


def test_pruning_by_torch_prune_during_sparse_training_is_refused_at_the_next_step():
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 3))
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.8)

    def step():
        optimizer.zero_grad()
        model(torch.ones(2, 6)).sum().backward()
        optimizer.step()

    step()
    prune.random_structured(model[0], "weight", 0.5, dim=0)
    with pytest.raises(InputError, match=r"0\.weight .*prune\.remove"):
        step()
    prune.remove(model[0], "weight")
    step()
    assert training.step == 2


def test_a_mask_in_a_parametrization_is_refused_too():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    register_parametrization(model[0], "weight", _Mask(model[0].weight))
    with pytest.raises(InputError, match="has a mask already"):
        sparsify(model, sgd(model), sparsity=0.8)
