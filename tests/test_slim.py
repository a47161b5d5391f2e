"""Models without the neurons and channels that have no weight left compute the same and are as small as they can be."""

import copy

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from model_examples import MobileNetwork, ResidualNetwork
from sparsify_examples import mlp, sgd, train
from torch import nn
from torch.nn import functional

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_strategies.srigl import StructuredRigL
from sparsecore_torch import export, sparsify


def sizes(model):
    return {name: tuple(one.shape) for name, one in model.named_parameters()}


def measured(model):
    """Batch norms with statistics and affine parameters of their own, and no bias that is zero."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def assert_same(model, small, inputs):
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(small(inputs), copy.deepcopy(model).eval()(inputs), rtol=1e-4, atol=1e-4)
        inputs = torch.randn_like(inputs) * 3


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_neurons_without_incoming_or_outgoing_weights_are_cut(storage):
    model = mlp()
    optimizer = sgd(model)
    masks = {"0.weight": torch.ones(12, 6), "2.weight": torch.ones(10, 12), "4.weight": torch.ones(3, 10)}
    masks["0.weight"][[0, 3]] = 0  # constant neurons
    masks["2.weight"][:, 5] = 0  # one that nothing reads
    masks["2.weight"][7, 3:] = 0
    masks["4.weight"][:, 7] = 0
    training = sparsify(
        model, optimizer, strategy="static", start=masks, include="*weight", storage=storage, regrow_pruned=False
    )
    train(model, optimizer, range(5))
    before = {name: one.clone() for name, one in model.state_dict().items()}
    small = export.slim(training, torch.randn(4, 6))
    assert sizes(small) == {
        **{"0.weight": (9, 6), "0.bias": (9,), "2.weight": (9, 9), "2.bias": (9,), "4.weight": (3, 9), "4.bias": (3,)}
    }
    assert (small[0].in_features, small[0].out_features, small[4].in_features) == (6, 9, 9)
    assert_same(export.squashed_copy(training), small, torch.randn(4, 6))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    train(small, sgd(small), range(2))


def test_what_only_cut_neurons_read_is_cut_as_well():
    model = mlp()
    with torch.no_grad():
        model[4].weight[:, 1:] = 0
        model[2].weight[0, 2:] = 0
    small = export.slim(model, torch.randn(2, 6))
    assert sizes(small)["0.weight"] == (2, 6)
    assert sizes(small)["2.weight"] == (1, 2)
    assert_same(model, small, torch.randn(4, 6))


def drop_channels(model, fraction, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand(len(parameter), generator=generator) < fraction] = 0
                parameter[:, torch.rand(parameter.shape[1], generator=generator) < fraction] = 0
    return model


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_a_residual_network_loses_channels_that_its_sums_agree_on(seed, fraction):
    torch.manual_seed(seed)
    layout = torch.channels_last if seed % 2 else torch.contiguous_format
    model = drop_channels(measured(ResidualNetwork()), fraction, seed).to(memory_format=layout)
    images = torch.randn(2, 3, 12, 12)
    small = export.slim(model, images)
    assert_same(model, small, images)
    counted = [sum(one.numel() for one in each.parameters()) for each in (model, small)]
    assert counted[1] < counted[0] if fraction >= 0.3 else counted[1] <= counted[0]


def test_constant_channels_are_folded_where_no_zeros_are_padded_and_kept_where_they_are():
    torch.manual_seed(0)

    def network(padding):
        model = measured(
            nn.Sequential(
                nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 5, 3, padding=padding), nn.ReLU(),
                nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 4 if padding else 5, 3),
            )
        )  # fmt: skip
        with torch.no_grad():
            model[0].weight[1] = 0
        return model

    folded, kept = (
        export.slim(network(padding), torch.randn(2, 2, 7, 7)[..., : 7 - padding, : 7 - padding]) for padding in (0, 1)
    )
    assert folded[0].out_channels == folded[1].num_features == folded[3].in_channels == 3
    assert kept[0].out_channels == kept[3].in_channels == 4


def test_depthwise_convolutions_views_means_and_norms_are_followed():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.expand, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
            self.project = nn.Conv2d(8, 6, 1, bias=False)
            self.hidden, self.layer_norm, self.head = nn.Linear(6 * 9, 12), nn.LayerNorm(12), nn.Linear(12, 2)

        def forward(self, x):
            x = functional.relu6(self.norm(self.expand(x)))
            x = functional.max_pool2d(self.project(self.depthwise(x).relu()), 2)
            x = functional.dropout(self.hidden(x.view(x.size(0), -1)), 0.5, self.training)
            return self.head(self.layer_norm(x))

    torch.manual_seed(0)
    model, images = measured(Mixed()), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model.depthwise.weight[[0, 1]] = 0
        model.depthwise.bias[:2] = -1.0  # relu makes zeros of them
        model.project.weight[2] = 0
        model.hidden.weight[:, 9:18] = 0
        model.hidden.weight[3] = 0
    small = export.slim(model, images)
    assert small.expand.out_channels == small.norm.num_features == small.depthwise.groups == 6
    assert small.project.out_channels == 4
    assert small.hidden.in_features == 4 * 9
    assert small.hidden.out_features == 12, "layer norm reads all"
    assert_same(model, small, images)


def test_a_network_whose_neurons_srigl_has_ablated_shrinks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3))
    optimizer = sgd(model)
    strategy = StructuredRigL(ablate=0.7, schedule=Every(steps=2))
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.875, include="2.weight", total_steps=60)
    train(model, optimizer, range(40))
    left = int((training.masks()["2.weight"].sum(1) > 0).sum())
    small = export.slim(training, torch.randn(4, 6))
    assert small[2].out_features <= left < 48
    assert_same(export.squashed_copy(training), small, torch.randn(4, 6))


class Loop(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(self.layer(x))


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.one(x) * self.other(x)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(6, 6), nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.layer(x) + self.scale


class Derived(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Loop(), "trace"),
        (Twice(), "layer.*twice"),
        (Product(), "mul"),
        (Scaled(), "scale"),
        (nn.Sequential(Derived(6, 6), nn.Linear(6, 2)), "Derived"),
        (nn.Sequential(nn.Linear(6, 6), nn.Softmax(1), nn.Linear(6, 2)), "Softmax"),
        (nn.TransformerEncoderLayer(6, 2, 8), "trace|TransformerEncoderLayer"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(model, match):
    with pytest.raises(InputError, match=match):
        export.slim(model, torch.randn(4, 6))


class Calls(nn.Module):
    """Two layers with something between them, or around them."""

    def __init__(self, forward, between=None):
        super().__init__()
        self.one, self.between, self.two = nn.Linear(6, 6), between, nn.Linear(6, 2)
        self.call = forward

    def forward(self, x):
        return self.call(self, x)


def hooked(model):
    model[0].register_forward_hook(lambda _, __, output: output + 1)
    return model


def through(model, x):
    return model.two(model.between(model.one(x)))


def after_itself(model, x):
    before = model.one(x)
    return model.two(model.between(before) + before)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Calls(through, nn.MaxPool1d(3, 1, 1)), "'between', which pools channels"),
        (Calls(through, nn.AvgPool1d(3, 1, 1)), "'between', which pools channels"),
        (Calls(through, nn.Sequential(nn.MaxPool1d(2), nn.Linear(3, 6))), "pools channels"),
        (Calls(after_itself, nn.ReLU(inplace=True)), "'between', which changes in place what 'add' reads"),
        (
            Calls(lambda model, x: model.two(input=model.one(x))),
            "'?two'?, which (is called with keywords|takes channels)",
        ),
        (Calls(lambda model, x: model.two(model.one(x).T.T)), "attribute 'T'"),
        (hooked(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))), "'0', which has forward hooks"),
        (nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv2d(4, 2, 1)), "Unflatten|batch"),
    ],
)
def test_channels_that_are_read_or_changed_in_other_ways_are_refused_by_name(model, match):
    with pytest.raises(InputError, match=match):
        export.slim(model, torch.randn(4, 6))


def test_images_without_a_batch_are_refused():
    with pytest.raises(InputError, match="dimension of the batch"):
        export.slim(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), torch.randn(3, 8, 8))


def test_products_of_channels_are_refused():
    with pytest.raises(InputError, match=r"mul|hardsigmoid"):
        export.slim(MobileNetwork(), torch.randn(2, 3, 8, 8))


def test_a_model_in_training_is_refused_and_so_is_one_whose_code_has_the_sizes():
    model = mlp()
    training = sparsify(model, sgd(model), sparsity=0.5)
    with pytest.raises(InputError, match="sparse training"):
        export.slim(model, torch.randn(2, 6))
    training.squash()
    with torch.no_grad():
        model[0].weight[0] = 0
    export.slim(model, torch.randn(2, 6))
