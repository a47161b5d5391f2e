"""Which tensors become sparse: those of any module, once each; the summary says why others stay dense."""

import pytest

torch = pytest.importorskip("torch")

from sparsify_examples import assert_inactive_is_zero, convnet, mlp, often, sgd, train
from torch import nn

from sparsecore_torch import sparsify


def sparse_names(model, **options):
    training = sparsify(model, sgd(model), sparsity=0.5, **options)
    names = training.topology.layout.names
    training.squash()
    return names


class Applied(nn.Module):
    """A module between two linear layers, so that it is neither the first nor the last."""

    def __init__(self, module, apply):
        super().__init__()
        self.start, self.module, self.end = nn.Linear(6, 6), module, nn.Linear(6, 3)
        self.function = apply

    def forward(self, x):
        return self.end(self.function(self.module, self.start(x)))


MODULES = {
    "linear": (lambda: nn.Linear(6, 6), lambda m, x: m(x), ["weight"]),
    "bilinear": (lambda: nn.Bilinear(6, 6, 6), lambda m, x: m(x, x), ["weight"]),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.Conv1d(2, 1, 3, padding=1)),
               lambda m, x: m(x[:, None])[:, 0], ["1.weight"]),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 3, padding=1)),
               lambda m, x: m(x.view(-1, 1, 2, 3)).flatten(1), ["1.weight"]),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 1, 3, padding=1)),
               lambda m, x: m(x.view(-1, 1, 1, 2, 3)).flatten(1), ["1.weight"]),
    "conv_transpose": (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.ConvTranspose2d(2, 1, 3, padding=1)),
                       lambda m, x: m(x.view(-1, 1, 2, 3)).flatten(1), ["1.weight"]),
    "grouped": (lambda: nn.Sequential(nn.Conv1d(1, 4, 1), nn.Conv1d(4, 4, 3, padding=1, groups=2)),
                lambda m, x: m(x[:, None]).mean(1), ["1.weight"]),
    "embedding": (lambda: nn.Embedding(6, 6), lambda m, x: m(x.argmax(-1)) + x, ["weight"]),
    "embedding_bag": (lambda: nn.EmbeddingBag(6, 6), lambda m, x: m(x.argsort(-1)) + x, ["weight"]),
    "attention": (lambda: nn.MultiheadAttention(6, 2, add_bias_kv=True), lambda m, x: m(x, x, x)[0],
                  ["in_proj_weight", "out_proj.weight"]),
    "lstm": (lambda: nn.LSTM(6, 6), lambda m, x: m(x)[0], ["weight_ih_l0", "weight_hh_l0"]),
    "gru": (lambda: nn.GRU(6, 3, bidirectional=True), lambda m, x: m(x)[0],
            ["weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"]),
    "encoder": (lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0), lambda m, x: m(x),
                ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)), lambda m, x: m(x),
                      ["parametrizations.weight.original"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODULES)
def test_tensors_of_any_module_train_sparsely(kind):
    make, apply, expected = MODULES[kind]
    torch.manual_seed(0)
    model = Applied(make(), apply)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.5)
    assert training.topology.layout.names == ("start.weight", *(f"module.{name}" for name in expected))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, optimizer, range(6))
    assert_inactive_is_zero(model, optimizer, training)
    assert training.updates == 3
    assert all(not torch.equal(before[name], model.get_parameter(name)) for name in training.topology.layout.names)


def test_the_default_leaves_out_the_first_convolution_the_last_linear_layer_norms_and_biases():
    model = convnet()
    training = sparsify(model, sgd(model))
    assert training.topology.layout.names == ("3.weight", "7.weight")
    assert training.summary().reasons() == {
        "first convolution": ["0.weight"],
        "bias": ["0.bias", "3.bias", "7.bias", "8.bias"],
        "norm": ["1.weight", "1.bias"],
        "last linear layer": ["8.weight"],
    }


def test_norms_of_several_dimensions_are_norms():
    model = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.LayerNorm((2, 2)), nn.Flatten(), nn.Linear(4, 3))
    assert sparse_names(model) == ("0.weight",)
    assert sparse_names(model, include=["2.weight", "0.*"]) == ("0.weight", "2.weight")


def test_include_replaces_the_default_and_exclude_removes_from_it():
    assert sparse_names(convnet(), include="*") == ("0.weight", "3.weight", "7.weight", "8.weight")
    assert sparse_names(convnet(), include=["0.*", "8.*"]) == ("0.weight", "8.weight")
    assert sparse_names(convnet(), exclude="3.*") == ("7.weight",)
    assert sparse_names(convnet(), include="*", exclude=("0.*", "7.weight")) == ("3.weight", "8.weight")


def test_frozen_tensors_are_not_selected():
    model = mlp()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    training = sparsify(model, sgd(model))
    assert training.topology.layout.names == ("2.weight",)
    assert torch.equal(model[0].weight, before)
    assert training.summary().reasons()["frozen"] == ["0.weight", "0.bias"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.inner_again = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.inner_again.weight = self.inner.weight

    def forward(self, x):
        return self.head(self.inner_again(self.inner(self.embedding(x)).relu()))


def test_a_tied_tensor_is_one_tensor_under_any_of_its_names():
    model = Tied()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often(), sparsity=0.5)
    assert training.topology.layout.names == ("inner.weight",)  # the embedding is the last linear layer, too
    for step in range(6):
        optimizer.zero_grad()
        words = torch.randint(0, 7, (5,), generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(words), words).backward()
        optimizer.step()
        assert_inactive_is_zero(model, optimizer, training)
    assert training.updates == 3
    assert model.inner_again.weight is model.inner.weight
    assert sparse_names(Tied(), include=["head.weight", "inner*"]) == ("embedding.weight", "inner.weight")
    assert sparse_names(Tied(), include="*", exclude="inner_again.*") == ("embedding.weight",)


def test_names_are_those_of_the_unwrapped_model():
    names = ("0.weight", "2.weight")
    assert sparse_names(torch.compile(mlp(), backend="eager")) == names
    assert sparse_names(nn.DataParallel(mlp())) == names
    assert sparse_names(nn.DataParallel(torch.compile(mlp(), backend="eager"))) == names
    inside = mlp()
    inside[0] = torch.compile(inside[0], backend="eager")
    assert sparse_names(inside) == names


def test_a_module_used_twice_counts_once():
    shared = nn.Linear(6, 6)
    assert sparse_names(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 3))) == ("0.weight",)


def test_the_summary_is_a_table_of_all_sparse_tensors():
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy=often("40%"), sparsity=0.5)
    start = {name: int(mask.sum()) for name, mask in training.masks().items()}
    train(model, optimizer, range(6))
    now = {name: int(mask.sum()) for name, mask in training.masks().items()}
    assert now != start
    lines = str(training.summary()).splitlines()
    words = [line.split() for line in lines]
    for name, shape, size in (("0.weight", "12×6", 72), ("2.weight", "10×12", 120)):
        row = [name, shape, str(now[name]), f"{start[name] / size:.4f}", f"{now[name] / size:.4f}"]
        assert row in words
    assert ["all", "96", "0.5000", "0.5000"] in words
    assert "step 6, 3 updates, sparsity 0.5000" in lines
    assert "  last linear layer: 4.weight" in lines


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_the_summary_counts_the_active_weights_that_are_exactly_zero(storage):
    model = mlp()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.5, storage=storage)
    assert training.summary().zeros == 0
    assert "0 of 96 active weights are exactly zero" in str(training.summary()).splitlines()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert training.summary().zeros == 96
    assert "96 of 96 active weights are exactly zero" in str(training.summary()).splitlines()


def test_the_summary_shortens_a_long_list_of_dense_parameters():
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(10)])
    summary = sparsify(model, sgd(model)).summary()
    biases = [f"{index}.bias" for index in range(10)]
    assert f"  bias: {', '.join(biases[:8])} and 2 more" in str(summary).splitlines()
    assert summary.reasons()["bias"] == biases


def test_names_that_look_like_markup_are_printed_literally():
    model = nn.ModuleDict({"[bold]": nn.Linear(6, 6), "end": nn.Linear(6, 3)})
    assert "[bold].weight" in str(sparsify(model, sgd(model)).summary())
