"""Files that earlier versions have written are read, and interrupted trainings end as they were to end.

``tests/data/write.py`` has written them, and ``expected.npz`` beside them: plain arrays of their contents, and of the
ends of the same trainings without an interruption.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from in_process import run_in_process
from safetensors.numpy import load_file
from sealed_content import entry_of

from sparsecore.errors import InputError
from sparsecore.plugins.discovery import load
from sparsecore.report import read_run
from sparsecore.run.checkpoint import read_checkpoint
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay
from sparsecore.study.folder import StudyFolder
from sparsecore.study.trials import trials_of

pytestmark = pytest.mark.usefixtures("quick_runs")

DATA = Path(__file__).parent / "data"
VERSIONS = ("0.1.0", "0.2.0")
STACKS = {"0.1.0": ("dpr", "snfs"), "0.2.0": ("dpr", "snfs", "deepr", "topkast", "mest", "density-schedule")}
RUNS = {"0.1.0": ("numpy", "cpu"), "0.2.0": ("numpy", "torch", "cpu")}
ROUNDING = {"numpy": 1e-9, "torch": 1e-9, "cpu": 1e-3}
"""Relative differences between processors: two of the backends compute in double precision."""

of_each_version = pytest.mark.parametrize("version", VERSIONS)


def expected(version: str, part: str) -> dict[str, Any]:
    with np.load(DATA / version / "expected.npz") as arrays:
        return {name.removeprefix(f"{part}/"): arrays[name] for name in arrays.files if name.startswith(f"{part}/")}


def copied(version: str, name: str, folder: Path) -> Path:
    return Path(shutil.copytree(DATA / version / name, folder / name))


@of_each_version
def test_a_finished_run_is_read_replayed_and_started_from(version: str, tmp_path: Path) -> None:
    folder, end = copied(version, "finished", tmp_path), expected(version, "finished")
    checkpoint = read_checkpoint(folder / "checkpoint.safetensors")
    for name in ("positions", "learner/values"):
        np.testing.assert_array_equal(checkpoint.arrays[name], end[name])
    assert read_checkpoint(folder / "epoch-1.safetensors").facts["clock"] == {"step": 4, "updates": 1}
    run = read_run(folder)
    assert [line.test_loss for line in run.epochs] == end["test_loss"].tolist()
    *_, last = replay(RunFolder(folder))
    np.testing.assert_array_equal(last.positions, end["positions"])
    command = ("train", "--strategy", "static", "--epochs", "1", "--backend", "numpy", "--model", "lenet-12-8")
    images = ("--data", "npz", "--data-dir", DATA / version / "images.npz", "--set", "training.learning_rate=0")
    source = ("--set", f"start.run={folder}", "--set", "start.values=trained")
    done = run_in_process(*command, *images, *source, "--out", tmp_path / "next")
    assert done.status == 0, done.stderr
    begun = load_file(tmp_path / "next/checkpoint.safetensors")
    np.testing.assert_array_equal(begun["positions"], end["positions"])
    np.testing.assert_allclose(begun["learner/values"], end["learner/values"], rtol=1e-6)


@pytest.mark.parametrize(("version", "backend"), [(version, name) for version in VERSIONS for name in RUNS[version]])
def test_an_interrupted_run_resumes_and_ends_as_without_the_interruption(
    version: str, backend: str, tmp_path: Path
) -> None:
    pytest.importorskip({"numpy": "numpy", "torch": "torch", "cpu": "sparsecore_cpu._kernels"}[backend])
    folder, end = copied(version, backend, tmp_path), expected(version, backend)
    before = read_checkpoint(folder / "checkpoint.safetensors").facts["clock"]["step"]
    assert 0 < before < 12
    images = ("--data-dir", DATA / version / "images.npz")
    done = run_in_process("train", "--resume", "--out", folder, *images)
    assert done.status == 0, done.stderr
    state = load_file(folder / "checkpoint.safetensors")
    np.testing.assert_array_equal(state["positions"], end["positions"])
    np.testing.assert_allclose(state["learner/values"], end["learner/values"], rtol=ROUNDING[backend], atol=1e-5)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose([line[name] for line in lines], end[name], rtol=ROUNDING[backend])
    assert len(read_run(folder).epochs) == 3


def test_a_study_and_a_lottery_that_have_begun_go_on(tmp_path: Path) -> None:
    study = StudyFolder(copied("0.2.0", "study", tmp_path))
    assert [trial.name for trial in trials_of(study.read())] == ["set-at-0.8-trial-0"]
    assert study.tables(trials_of(study.read())[0])["strategy"][0]["name"] == "set"
    lottery = copied("0.2.0", "lottery", tmp_path)
    images = ("--data-dir", DATA / "0.2.0/images.npz")
    done = run_in_process("lottery", "--resume", "--out", lottery, *images, "--json")
    assert done.status == 0, done.stderr
    assert [line["round"] for line in json.loads(done.stdout)["rounds"]] == [0, 1]


@of_each_version
def test_files_for_predictions_predict_what_they_did(version: str) -> None:
    pytest.importorskip("sparsecore_cpu._kernels")
    from sparsecore_cpu.inference import Predictor

    with np.load(DATA / version / "images.npz") as images:
        logits = Predictor.load(DATA / version / "network.safetensors").predict(images["x_test"][..., None])
    np.testing.assert_allclose(logits, expected(version, "network")["logits"], rtol=1e-4, atol=1e-5)
    inputs = np.sin(np.arange(48.0)).reshape(8, 6).astype(np.float32)
    outputs = Predictor.load(DATA / version / "model.safetensors").predict(inputs)
    np.testing.assert_allclose(outputs, expected(version, "model")["outputs"], rtol=1e-4, atol=1e-5)


def writer() -> Any:
    """The module that has written the files, for the trainings that go on from them."""
    spec = importlib.util.spec_from_file_location("write", DATA / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@of_each_version
def test_a_small_file_has_the_weights_that_were_saved(version: str) -> None:
    pytest.importorskip("torch")
    from sparsecore_torch import export

    model = writer().network()
    export.load_sparse(model, DATA / version / "sparse.safetensors")
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), expected(version, "sparse")[name])


@pytest.mark.parametrize(("version", "stack"), [(version, name) for version in VERSIONS for name in STACKS[version]])
def test_state_dicts_are_loaded_and_the_training_goes_on_as_it_did(version: str, stack: str) -> None:
    torch = pytest.importorskip("torch")
    written = writer()
    model, optimizer, training = written.training_of(stack)
    saved = torch.load(DATA / version / f"{stack}.pt", weights_only=True)
    for name, part in (("model", model), ("optimizer", optimizer), ("training", training)):
        part.load_state_dict(saved[name])
    arrays = expected(version, stack)
    for name, array in written.weights_of(training).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    steps = range(training.step, training.step + len(arrays["losses"]))
    losses = [written.step(model, optimizer, number) for number in steps]
    np.testing.assert_allclose(losses, arrays["losses"], rtol=1e-9)
    ended = written.weights_of(training)
    np.testing.assert_array_equal(ended["positions"], arrays["end/positions"])
    for name, array in ended.items():
        np.testing.assert_allclose(array, arrays[f"end/{name}"], rtol=1e-9, atol=1e-12, err_msg=name)


def with_option(strategy: type, name: str = "novel") -> Any:
    """The strategy as a later version may have it, with one option more."""
    more = {name: attrs.field(default=0.5)}
    return attrs.make_class(strategy.__name__, more, (strategy,), frozen=True, eq=False)


def test_a_strategy_with_a_new_option_resumes_what_was_begun_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new option is at its default, which is what the strategy did before."""
    folder, end = copied("0.2.0", "numpy", tmp_path), expected("0.2.0", "numpy")
    growth = load("strategy", "gradient-growth")
    later = with_option(growth)
    monkeypatch.setattr(sys.modules[growth.__module__], growth.__name__, later)
    resume = ("train", "--resume", "--out", folder, "--data-dir", DATA / "0.2.0/images.npz")
    refused = run_in_process(*resume, "--set", "strategy.gradient-growth.novel=0.7")
    assert "'novel': 0.7}] is requested" in refused.sentence
    done = run_in_process(*resume)
    assert done.status == 0, done.stderr
    np.testing.assert_array_equal(load_file(folder / "checkpoint.safetensors")["positions"], end["positions"])
    assert len(read_run(folder).epochs) == 3
    done = run_in_process("report", folder)
    assert done.status == 0, done.stderr


def test_a_study_goes_on_with_a_strategy_that_has_a_new_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyFolder(copied("0.2.0", "study", tmp_path))
    (trial,) = trials_of(study.read())
    evolution = load("strategy", "set")
    later = with_option(evolution)
    monkeypatch.setattr(sys.modules[evolution.__module__], evolution.__name__, later)
    study.runs.mkdir(exist_ok=True)
    given = ("train", study.experiment(trial), "--out", study.run(trial).path)
    assert run_in_process(*given).status == 0
    assert study.result(trial) is not None
    shutil.rmtree(study.run(trial).path)
    assert run_in_process(*given, "--set", "strategy.novel=0.7").status == 0
    with pytest.raises(InputError, match="had other settings"):
        study.result(trial)


def test_a_training_with_a_new_option_loads_what_was_saved_without_it_where_it_is_at_its_default() -> None:
    pytest.importorskip("torch")
    from sparsify_examples import mlp, sgd

    from sparsecore_torch import sparsify

    growth = load("strategy", "gradient-growth")
    later = with_option(growth)

    def begun(strategy: object) -> Any:
        model = mlp()
        return sparsify(model, sgd(model), strategy=["dpr", strategy], sparsity=0.8, seed=1)

    saved = begun(growth()).state_dict()
    begun(later()).load_state_dict(saved)
    with pytest.raises(InputError, match=r"novel: 0\.5 there, 0\.7 here"):
        begun(later(novel=0.7)).load_state_dict(saved)


def test_the_files_of_0_2_0_name_their_formats() -> None:
    """These are the numbers that docs/formats.md has for 0.2.0; a later change of a number leaves them as they are."""
    folder = DATA / "0.2.0"
    assert entry_of(folder / "finished/checkpoint.safetensors")["format"] == "sparsecore checkpoint 2"
    assert entry_of(folder / "sparse.safetensors")["format"] == "sparsecore sparse model 1"
    assert entry_of(folder / "network.safetensors")["format"] == "sparsecore network 2"
    assert entry_of(folder / "model.safetensors")["format"] == "sparsecore model 2"
    for file, text in (
        ("finished/experiment.toml", 'format = "sparsecore run 1"\n'),
        ("study/study.toml", 'format = "sparsecore study 1"\n'),
        ("lottery/lottery.toml", 'format = "sparsecore lottery 1"\n'),
    ):
        assert (folder / file).read_text("utf-8").startswith(text)
