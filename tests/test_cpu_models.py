"""Predictions with modules of torch: those of torch in double precision, from any batch and from files."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from inference_examples import close
from model_examples import NETWORKS, inputs_for, network, outputs_of
from sealed_content import rewrite
from sparsify_examples import convnet, sgd, train
from torch import nn
from torch.nn import functional

from sparsecore.errors import InputError
from sparsecore_cpu.inference import Predictor
from sparsecore_torch import export, sparsify

of_each_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def predictor_of(name: str) -> Predictor[Any]:
    return Predictor.of_model(network(name), inputs_for(name, 1), threads=1)


@of_each_network
def test_predictions_equal_the_modules_for_batches_of_any_size(name: str) -> None:
    inputs = inputs_for(name, 37)
    expected = outputs_of(name, inputs)
    each = len(expected) // len(inputs)
    for count in (0, 1, 3, 16, 37):
        predicted = predictor_of(name).predict(inputs[:count].numpy())
        assert predicted.dtype == np.float32
        assert predicted.shape == expected[: each * count].shape
        assert close(predicted, expected[: each * count])


@of_each_network
def test_a_file_predicts_bit_for_bit_what_was_saved_on_any_number_of_threads(name: str, tmp_path: Path) -> None:
    predictor_of(name).save(tmp_path / "network.safetensors")
    for threads in (1, 2, 3):
        read = Predictor.load(tmp_path / "network.safetensors", threads)
        for count in (1, 3, 16):
            inputs = inputs_for(name, count).numpy()
            np.testing.assert_array_equal(read.predict(inputs), predictor_of(name).predict(inputs))


def test_a_file_is_hardly_larger_than_the_nonzero_entries(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100))
    for parameter in model.parameters():
        parameter.data *= torch.rand_like(parameter) < 0.1
    Predictor.of_model(model, torch.randn(2, 300), threads=1).save(tmp_path / "network.safetensors")
    nonzero = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    assert (tmp_path / "network.safetensors").stat().st_size < 1.4 * 4 * nonzero + 3000


def test_the_example_of_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parent.parent / "backends/sparsecore_cpu/README.md"
    _, code = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    defined: dict[str, Any] = {}
    exec(code, defined)
    np.testing.assert_array_equal(
        defined["predictor"].predict(np.ones((2, 3, 32, 32), np.float32)),
        defined["again"].predict(np.ones((2, 3, 32, 32), np.float32)),
    )


def test_the_module_keeps_its_mode_and_its_parameters_and_may_change_afterwards() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.BatchNorm1d(5))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = torch.randn(4, 6)
    predictor = Predictor.of_model(model, inputs, threads=1)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    expected = predictor.predict(inputs.numpy())
    with torch.no_grad():
        model[0].weight.zero_(), model[0].bias.zero_(), model[2].running_mean.zero_()
    np.testing.assert_array_equal(predictor.predict(inputs.numpy()), expected)


def test_modules_that_need_the_number_of_examples_as_an_integer_are_taken_over() -> None:
    token = torch.randn(1, 1, 6)

    def with_token(x: Any) -> Any:
        x = torch.cat([token.expand(len(x), -1, -1), x.reshape(int(x.numel() / 12), 2, 6)], 1)
        return functional.gelu(x).reshape(len(x), -1)

    model = nn.Sequential(nn.Linear(5, 12), _Computed(with_token), nn.Linear(18, 4))
    inputs = torch.randn(7, 5)
    with torch.no_grad():
        expected = model(inputs).numpy()
    predictor = Predictor.of_model(model, inputs[:1], threads=1)
    for count in (1, 2, 3, 7):
        assert close(predictor.predict(inputs[:count].numpy()), expected[:count])


def test_parametrizations_are_taken_over_as_what_they_compute() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    inputs = torch.randn(4, 6)
    assert close(Predictor.of_model(model, inputs, threads=1).predict(inputs.numpy()), model(inputs).detach().numpy())


@pytest.mark.parametrize("settings", [{}, {"storage": "compact"}, {"kernels": "sparse"}], ids=str)
def test_a_model_in_sparse_training_is_taken_over_with_its_active_weights(settings: dict[str, str]) -> None:
    model = convnet()
    optimizer = sgd(model)
    training = sparsify(model, optimizer, strategy="static", sparsity=0.5, **settings)
    train(model, optimizer, range(3), shape=(2, 5, 5))
    inputs = torch.randn(4, 2, 5, 5)
    predictor = Predictor.of_model(export.squashed_copy(training), inputs, threads=1)
    kept = {name: len(weight.values) for name, weight in predictor.network.weights.items()}
    for name, mask in training.masks().items():
        assert kept[name] == int(mask.sum())
    model.eval()
    with torch.no_grad():
        assert close(predictor.predict(inputs.numpy()), model(inputs).numpy())


class _Computed(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: torch.cumsum(x, 1), r"aten.cumsum.default\) in inner: this operation is not taken over; those that"),
        (lambda x: x - x.mean(0), "in inner: it combines the examples of a batch"),
        (lambda x: torch.cat([x, x]), "in inner: it combines the examples of a batch"),
        (lambda x: x + torch.rand(4), "draws random numbers"),
        (lambda x: (x, x), "one input and one output is taken over; this one has 1 and 2"),
        (lambda x: x if x.sum() > 0 else -x, "torch.export cannot export Sequential: "),
        (lambda x: torch.ones(len(x), len(x)) @ x, r"aten.ones.default\) in inner: this operation is not taken over"),
        (lambda x: x.sum((0, 1)), "in inner: it combines the examples of a batch"),
        (lambda _: torch.ones(4), "does not depend on its input"),
        (lambda x: x / x.shape[0], "in inner: it computes with the number of examples"),
        (lambda x: x + torch.full((4,), float(len(x))), "in inner: it computes with the number of examples"),
        (lambda x: x if x.shape[0] < 50 else 2 * x, "something else for batches of more than 49 examples"),
        (lambda x: x if len(x) < 50 else 2 * x, "something else for batches of more than 49 examples"),
        (lambda x: x if int(x.shape[0]) ** 2 < 50 else 2 * x, "something else for batches of .* such as 8 examples"),
        (lambda x: x if x.shape[0] != 20_000 else 2 * x, "something else for batches of .* such as 20000 examples"),
        (lambda x: x if x.shape[0] % 3 else 2 * x, "something else for batches of .* such as 3 examples"),
        (lambda x: x if x.shape[0] > 1 else 2 * x, "the predictions of one example are not those of the model"),
        (lambda x: x * np.prod([len(x), 1]), r"cannot export .* len\(x\) does; x.shape\[0\] may help"),
        (lambda x: {"logits": x + 1}, "one tensor is taken over; this one returns dict"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_by_name_and_nothing_else_is_printed(
    function: Callable[[Any], Any], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential()
    model.add_module("inner", _Computed(function))
    with pytest.raises(InputError, match=sentence):
        Predictor.of_model(model, torch.randn(2, 4))
    assert not "".join(capfd.readouterr())


def test_operations_on_numbers_of_words_are_refused() -> None:
    with pytest.raises(InputError, match=r"its output is torch\.int64; operations on inputs compute torch.float32"):
        Predictor.of_model(_Computed(lambda x: x + 1), torch.zeros(2, 4, dtype=torch.int64))


def test_arguments_that_are_no_module_and_no_batch_are_refused() -> None:
    linear = nn.Linear(4, 4)
    for model, example, sentence in (
        (3, torch.randn(2, 4), "taken over from a torch.nn.Module; given int"),
        (linear, [1.0], "one tensor of inputs .* given list"),
        (linear, torch.randn(0, 4), r"one tensor of inputs .* given \(0, 4\)"),
        (linear, torch.randn(2, 4).double(), "given an example of torch.float64"),
        (nn.Linear(4, 4).double(), torch.randn(2, 4), "weight is torch.float64 on cpu"),
    ):
        with pytest.raises(InputError, match=sentence):
            Predictor.of_model(model, example)


def test_inputs_of_another_shape_or_dtype_are_refused() -> None:
    with pytest.raises(InputError, match=r"inputs are \(batch, 20\) as the example was; given \(2, 19\)"):
        predictor_of("perceptron").predict(np.zeros((2, 19), np.float32))
    with pytest.raises(InputError, match="inputs are float32 as the example was; given int64"):
        predictor_of("perceptron").predict(np.zeros((2, 20), np.int64))
    with pytest.raises(InputError, match="indices of an embedding are from 0 to 39; given 0 to 40"):
        predictor_of("transformer").predict(np.array([[40] + [0] * 11]))


def _changed(name: str, change: Callable[[Any], Any]) -> Any:
    return lambda arrays, facts: ({**arrays, name: change(arrays[name])}, facts)


def _without(name: str) -> Any:
    return lambda arrays, facts: ({key: array for key, array in arrays.items() if key != name}, facts)


def _said(name: str, value: Any) -> Any:
    return lambda arrays, facts: (arrays, {**facts, name: value})


@pytest.mark.parametrize(
    "change",
    [
        _without("positions/0.weight"),
        _without("values/0.weight"),
        _without("constants/0.bias"),
        _changed("values/0.weight", lambda array: array[1:]),
        _changed("positions/0.weight", lambda array: np.append(array[:-1], array[-1:] & 0x7F)),
        _changed("positions/0.weight", lambda array: np.append(array[:-1], np.uint8([0x7F, 0x7F, 0x7F, 0xFF]))),
        _changed("constants/0.bias", lambda array: array[1:]),
        _said("calls", [["no such", [0], {}, [-1, 48], ""]]),
        _said("calls", [["relu", [1], {}, [-1, 48], ""]]),
        _said("calls", 5),
        _said("output", 99),
        _said("shape", [-1, 19]),
        _said("weights", {"0.weight": [48, 10**9]}),
    ],
)
def test_a_damaged_file_is_refused(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    predictor_of("perceptron").save(path)
    rewrite(path, change)
    with pytest.raises(InputError, match="is damaged"):
        Predictor.load(path)
