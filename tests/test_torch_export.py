"""Trained networks as CSR matrices and as ONNX files that compute what the model does."""

import sys

import pytest

torch = pytest.importorskip("torch")

from compact_examples import Convolutions, Mlp, Transformer, batches, started, train
from torch import nn

import sparsecore_torch
from sparsecore.errors import InputError, SparsecoreError
from sparsecore_torch import sparsify
from sparsecore_torch.sparse_training import export

STORAGES = ["masked", "compact"]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_csr_matrix_multiplies_as_the_layer_does(storage):
    model, trains, training = started(Mlp, storage)
    train(model, trains, 6)
    matrices = sparsecore_torch.sparse_training.export.to_csr(training)
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


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("normalized", "masked"),
        ("transformer", "compact"),
        pytest.param("normalized", "compact", marks=pytest.mark.slow),
        pytest.param("transformer", "masked", marks=pytest.mark.slow),
    ],
)
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


@pytest.mark.parametrize("storage", [pytest.param("masked", marks=pytest.mark.slow), "compact"])
def test_training_continues_unchanged_after_an_export(storage, tmp_path):
    pytest.importorskip("onnxscript")
    model, trains, training = started(Mlp, storage)
    twin, twins, _ = started(Mlp, storage)
    train(model, trains, 4)
    export.to_onnx(training, next(batches(model, 1)), tmp_path / "model.onnx")
    export.to_csr(training)
    assert model.training
    train(twin, twins, 4)
    assert train(model, trains, 8, start=4) == train(twin, twins, 8, start=4)


def test_options_are_passed_to_the_exporter(tmp_path):
    onnx = pytest.importorskip("onnx")
    _, _, training = started(Mlp, "compact")
    options = {"input_names": ["features"], "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    export.to_onnx(training, torch.randn(4, 6), tmp_path / "model.onnx", **options)
    (node,) = onnx.load(tmp_path / "model.onnx").graph.input
    assert node.name == "features"
    assert node.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_file_with_different_outputs_is_not_written(tmp_path):
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


def test_missing_folders_and_packages_and_ended_trainings_raise_one_error_sentence(tmp_path, monkeypatch):
    _, _, training = started(Mlp, "masked")
    with pytest.raises(InputError, match="there is no folder"):
        export.to_onnx(training, torch.randn(4, 6), tmp_path / "nowhere" / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs onnxscript, .*pip install 'sparsecore-engine\[onnx\]'"):
        export.to_onnx(training, torch.randn(4, 6), tmp_path / "model.onnx")
    training.squash()
    with pytest.raises(InputError, match="has ended"):
        export.to_csr(training)


class Called(nn.Module):
    """Takes inputs in every way there is."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, one, other=None, *, scale=1.0, more=None):
        hidden = self.layer(one) * scale
        hidden = hidden if other is None else hidden - other
        return {"logits": self.last(hidden if more is None else hidden + 2 * more["deep"]), "hidden": hidden}


def trained(make, dtype=torch.float32, storage="masked"):
    torch.manual_seed(0)
    model = make().to(dtype)
    return sparsify(
        model, torch.optim.SGD(model.parameters(), lr=0.1), strategy="static", include="*weight", storage=storage
    )


ONE, OTHER, DEEP = torch.randn(3, 4, 6).unbind()
CALLS = {
    "mixed": ((ONE,), {"more": {"deep": DEEP}, "other": OTHER}),
    "by keyword alone": ((), {"scale": 3.0, "more": {"deep": DEEP}, "one": ONE}),
    "a number": ((ONE, OTHER), {"scale": 0.5}),
}


@pytest.mark.parametrize(
    "call", ["mixed", *(pytest.param(one, marks=pytest.mark.slow) for one in ("by keyword alone", "a number"))]
)
def test_inputs_by_keyword_are_exported_and_run(call, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    inputs, kwargs = CALLS[call]
    training = trained(Called)
    export.to_onnx(training, inputs, tmp_path / "model.onnx", kwargs=kwargs)
    with torch.no_grad():
        expected = training.model.eval()(*inputs, **(kwargs or {}))
    named = {"one": ONE, "other": OTHER, "more_deep": DEEP}
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {node.name: named[node.name].numpy() for node in session.get_inputs()})
    for one, other in zip(outputs, expected.values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-4, atol=1e-4)


def test_the_output_check_uses_keyword_inputs(tmp_path):
    pytest.importorskip("onnxscript")

    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, one, other=None):
            output = self.layer(one)
            return output if other is None or torch.compiler.is_exporting() else output + other.sum()

    training = trained(Forgets)
    with pytest.raises(SparsecoreError, match="output 0 of the ONNX file is not the model's"):
        export.to_onnx(training, ONE, tmp_path / "model.onnx", kwargs={"other": OTHER})
    assert not list(tmp_path.iterdir())


def test_inputs_that_the_model_does_not_accept_raise_one_error_sentence(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(InputError, match=r"cannot be called with 1 example inputs and the keywords mask.*mask"):
        export.to_onnx(trained(Called), ONE, tmp_path / "model.onnx", kwargs={"mask": OTHER})


class Halves(nn.Module):
    """Layers, a constant of its own, and a sum in float32, as norms of language models have it."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.last = nn.Conv2d(1, 4, 3), nn.Linear(16, 16), nn.Linear(16, 3)
        self.register_buffer("shift", torch.linspace(0, 1, 16))

    def forward(self, given):
        hidden = self.inner(self.stem(given.reshape(-1, 1, 4, 4)).flatten(1)) + self.shift
        wide = hidden.to(torch.float32)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
        return self.last(torch.relu(normed.to(hidden.dtype)))


@pytest.mark.parametrize(
    ("dtype", "storage"),
    [
        pytest.param(torch.bfloat16, "masked", marks=pytest.mark.slow),
        (torch.bfloat16, "compact"),
        (torch.float16, "masked"),
    ],
)
def test_a_model_of_half_precision_is_written_as_it_is_and_compared_in_float32(dtype, storage, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    training = trained(Halves, dtype, storage)
    given = torch.randn(5, 16, dtype=dtype)
    export.to_onnx(training, given, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    written = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(written)
    numbers = {torch.bfloat16: onnx.TensorProto.BFLOAT16, torch.float16: onnx.TensorProto.FLOAT16}
    weights = {one.name: one for one in written.graph.initializer}
    assert weights["inner.weight"].data_type == numbers[dtype]
    dense = dict(export.squashed_copy(training).named_parameters())["inner.weight"].detach()
    as_written = onnx.numpy_helper.to_array(weights["inner.weight"]).astype("float32")
    assert torch.equal(torch.from_numpy(as_written), dense.float())
    if dtype is torch.float16:  # which onnxruntime computes with on the CPU
        session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(output), training.model.eval()(given).detach(), rtol=0.02, atol=0.02
        )


def test_a_wrong_file_of_half_precision_is_not_written(tmp_path):
    pytest.importorskip("onnxscript")

    class Differs(Halves):
        def forward(self, given):
            return super().forward(given) * (1.01 if torch.compiler.is_exporting() else 1.0)

    with pytest.raises(SparsecoreError, match=r"output 0 .*within 0\.0001, both in float32 in place of bfloat16"):
        export.to_onnx(trained(Differs, torch.bfloat16), torch.randn(5, 16).bfloat16(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_csr_matrices_hold_half_precision_exactly_and_any_number_of_sides():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        training = trained(
            lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.ConvTranspose3d(3, 4, 2), nn.Linear(4, 4)), dtype
        )
        dense = dict(training.model.named_parameters())
        for name, matrix in export.to_csr(training).items():
            assert matrix.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
            assert torch.equal(matrix.to_dense(), dense[name].detach().flatten(1).to(matrix.dtype))
