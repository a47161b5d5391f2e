import sys

import pytest

torch = pytest.importorskip("torch")

from compact_examples import Convolutions, Mlp, Transformer, batches, started, train  # noqa: E402
from torch import nn  # noqa: E402

import sparsecore_torch  # noqa: E402
from sparsecore.errors import InputError, SparsecoreError  # noqa: E402
from sparsecore_torch import export, sparsify  # noqa: E402

STORAGES = ["masked", "compact"]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_csr_matrix_multiplies_as_the_layer_does(storage):
    model, trains, training = started(Mlp, storage)
    train(model, trains, 6)
    matrices = sparsecore_torch.export.to_csr(training)
    assert list(matrices) == ["0.weight", "2.weight", "4.weight"]
    assert sum(one.values().numel() for one in matrices.values()) == training.topology.size
    for layer in (0, 2, 4):
        matrix = matrices[f"{layer}.weight"]
        given = torch.randn(5, matrix.shape[1])
        product = (matrix @ given.t()).t()
        torch.testing.assert_close(product, nn.functional.linear(given, model[layer].weight.detach()))


@pytest.mark.parametrize("storage", STORAGES)
def test_csr_and_dense_hold_the_same_numbers(storage):
    for make in (Convolutions, Transformer):
        model, trains, training = started(make, storage)
        train(model, trains, 6)
        matrices = export.to_csr(training)
        training.squash()
        dense = dict(model.named_parameters())
        assert set(matrices) <= set(dense)
        for name, matrix in matrices.items():
            assert torch.equal(matrix.to_dense(), dense[name].detach().flatten(1))


def test_a_row_without_weights_is_an_empty_row():
    model = nn.Sequential(nn.Linear(40, 30))
    training = sparsify(
        model, torch.optim.SGD(model.parameters(), lr=0.1), strategy="static", include="*weight", sparsity=0.99
    )
    matrix = export.to_csr(training)["0.weight"]
    per_row = (model[0].weight != 0).sum(1)
    assert (per_row == 0).any()
    assert torch.equal(matrix.crow_indices().diff(), per_row)


class Normalized(nn.Module):
    """Computes otherwise in training than in evaluation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 25, 3)
        )

    def forward(self, given):
        return self.layers(given)


MODELS = {
    "normalized": (Normalized, lambda: torch.randn(2, 2, 7, 7)),
    "transformer": (Transformer, lambda: torch.randint(0, 9, (6, 5))),
}


def run(path, given):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {node.name: given.numpy()})[0])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", MODELS)
def test_the_onnx_file_computes_what_the_squashed_model_does(name, storage, tmp_path):
    pytest.importorskip("onnxscript")
    make, draw = MODELS[name]
    torch.manual_seed(0)
    model = make()
    trains = torch.optim.SGD(model.parameters(), lr=0.1)
    training = sparsify(model, trains, strategy="static", include="*weight", storage=storage)
    for _ in range(3):
        model(draw()).square().mean().backward()
        trains.step()
    given = draw()
    export.to_onnx(training, given, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    training.squash()
    model.eval()
    torch.testing.assert_close(run(tmp_path / "model.onnx", given), model(given).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("storage", STORAGES)
def test_training_goes_on_as_if_nothing_had_been_exported(storage, tmp_path):
    pytest.importorskip("onnxscript")
    model, trains, training = started(Mlp, storage)
    twin, twins, _ = started(Mlp, storage)
    train(model, trains, 4)
    export.to_onnx(training, next(batches(model, 1)), tmp_path / "model.onnx")
    export.to_csr(training)
    assert model.training
    train(twin, twins, 4)
    assert train(model, trains, 8, start=4) == train(twin, twins, 8, start=4)


def test_options_reach_the_exporter(tmp_path):
    onnx = pytest.importorskip("onnx")
    _, _, training = started(Mlp, "compact")
    options = {"input_names": ["features"], "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    export.to_onnx(training, torch.randn(4, 6), tmp_path / "model.onnx", **options)
    (node,) = onnx.load(tmp_path / "model.onnx").graph.input
    assert node.name == "features"
    assert node.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    pytest.importorskip("onnxruntime")

    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, given):
            return self.layer(given) + torch.rand(3)

    model = Draws()
    training = sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), include="*weight", strategy="static")
    (tmp_path / "model.onnx").write_text("an older one")
    with pytest.raises(SparsecoreError, match=r"output 0 of the ONNX file is not the model's within 0.0001"):
        export.to_onnx(training, torch.randn(4, 6), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "an older one"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_missing_is_a_sentence(tmp_path, monkeypatch):
    _, _, training = started(Mlp, "masked")
    with pytest.raises(InputError, match="there is no folder"):
        export.to_onnx(training, torch.randn(4, 6), tmp_path / "nowhere" / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"need the package onnxscript: pip install 'sparsecore-engine\[onnx\]'"):
        export.to_onnx(training, torch.randn(4, 6), tmp_path / "model.onnx")
    training.squash()
    with pytest.raises(InputError, match="has ended"):
        export.to_csr(training)
