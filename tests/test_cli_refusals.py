"""Wrong input gets one sentence that names what was given and what was expected, and exit status 2."""

from pathlib import Path

import pytest
from command_line import SMALL, said, small_images, sparsecore

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sparsity", "1"], ["[0, 1)", "1.0"]),
        (["--sparsity", "-0.1"], ["[0, 1)", "-0.1"]),
        (["--sparsity", "nan"], ["sparsity", "nan"]),
        (["--sparsity", "NaN"], ["sparsity", "nan"]),
        (["--sparsity", "much"], ["sparsity", "number", "much"]),
        (["--epochs", "2.7"], ["training.epochs", "whole number", "2.7"]),
        (["--epochs", "0"], ["epochs", "1"]),
        (["--batch-size", "0"], ["batch_size", "1"]),
        (["--batch-size", "1e2"], ["training.batch_size", "whole number"]),
        (["--seed", "-1"], ["seed", "0"]),
        (["--strategy", "rigel"], ["no strategy named 'rigel'", "dpr, erk-start", "rigl"]),
        (["--strategy", "dpr", "--strategy", "dpr"], ["dpr", "twice"]),
        (["--model", "wrn-27-2"], ["6n+4", "27"]),
        (["--model", "wrn-28"], ["no model named 'wrn-28'", "wrn-28-2", "sizes"]),
        (
            ["--model", "resnet"],
            ["no model named 'resnet'", "hashed-wrn-28-2, lenet-300-100", "thin-wrn-28-2, wrn-28-2"],
        ),
        (["--set", "model.depth=27", "--model", "wrn-28-2"], ["6n+4", "27"]),
        (["--data", "imagenet"], ["no dataset named 'imagenet'", "digits"]),
        (["--backend", "numpi"], ["no backend named 'numpi'", "numpy"]),
        (["--set", "backend.dtype=float16"], ["float16", "float32"]),
        (["--set", "training.epoch=3"], ["'epoch'", "epochs"]),
        (["--set", "trainning.epochs=3"], ["'trainning'", "training"]),
        (["--set", "strategy.dpr.targt=3"], ["'targt'", "target"]),
        (["--set", "strategy.dpr.tolerance=nan"], ["tolerance", "nan"]),
        (["--set", "strategy.dpr.target=60"], ["60", "only 60"]),
        (["--set", "strategy.dpr.target=2.5"], ["target", "2.5"]),
        (["--set", "training.learning_rate=nan"], ["learning_rate", "nan"]),
        (["--set", "training.learning_rate=-0.1"], ["learning rate", "-0.1"]),
        (["--set", "training.momentum=true"], ["momentum", "number", "True"]),
        (["--set", "training.epochs"], ["section.key=value"]),
        (["--set", "data.limit=0"], ["limit", "1"]),
        (["--set", "data.limit=101"], ["101", "100"]),
        (["--set", f"training.epochs={'9' * 400}"], ["training.epochs", "at most"]),
        (["--set", "model.hidden=''"], ["hidden", "list"]),
        (["--set", "model.hidden={}"], ["hidden", "list"]),
        (["--model", f"lenet-{'9' * 5000}"], ["no model named"]),
        (["--model", "lenet-٣-٣"], ["no model named"]),
        (["--seed", "9" * 5000], ["seed"]),
        (["--seed", "9007199254740993"], ["seed", "from 0 to 9007199254740992", "9007199254740993"]),
        (["--sparsity", "0.9\nseed=3"], ["sparsity", "number"]),
        (["--sparsity", "١"], ["sparsity", "number"]),
        (["--data-dir", ""], ["dir"]),
        (["--set", "data.dir=\udcff"], ["path"]),
        (["--set", "model.hidden=[999999999999999999999999999]"], ["hidden", "at most"]),
        (["--set", "model.hidden=[9007199254740992, 9007199254740992]"], ["2^63"]),
        (["--out", "a" * 300], ["cannot be made"]),
        (["--out", "/etc/passwd/run"], ["/etc/passwd/run", "cannot be made"]),
        (["--set", "strategy.dpr.initial_threshold=1e39"], ["initial_threshold"]),
        (["--set", "data.crop=4"], ["4", "padded"]),
        (["--data-dir", "/no/such/place"], ["/no/such/place"]),
        (["--data", "digits"], ["'digits' reads no files", "--data-dir", "small.npz"]),
        (["--strategy", "no/such/file.py:Mine"], ["no/such/file.py", "does not exist"]),
        (["--strategy", "no.such.module:Mine"], ["no.such.module", "No module named 'no'"]),
        (["--set", "training.learning_rate={0 = 0.1, 0 = 0.2}"], ["{0 = 0.1, 0 = 0.2} is not a table of TOML"]),
        (["no-such.toml"], ["no-such.toml", "No such file"]),
        (["--resume"], ["--out"]),
        (["--resume", "/etc"], ["/etc is a folder", "sparsecore train --resume --out /etc"]),
    ],
    ids=lambda given: ascii(" ".join(given))[:60],
)
def test_wrong_input_is_refused_with_a_sentence(
    images: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    sentence = said(sparsecore("train", *SMALL, "--data-dir", images, *arguments, cwd=tmp_path))
    for word in words:
        assert word in sentence
    assert "importlib" not in sentence
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("sparsity = 0.9\nsparsitty = 0.8", ["'sparsitty'", "sparsity"]),
        ("sparsity = nan", ["sparsity", "nan"]),
        ("sparsity = '0.9'", ["sparsity", "number", "'0.9'"]),
        ("[training]\nepochs = 2.0", ["training.epochs", "whole number", "2.0"]),
        ("[training]\nlr = 0.1", ["'lr'", "learning_rate"]),
        ("[training]\nlearning_rate = {1 = 0.1}", ["epoch 0"]),
        ("[training]\nlearning_rate = {0 = inf}", ["learning_rate", "inf"]),
        ("training = 3", ["training", "3"]),
        ("model = 300", ["model", "300"]),
        ("[model]\nname = 3", ["model", "name"]),
        ("[[strategy]]\ntarget = 5", ["strategy", "name"]),
        ("sparsity = ", ["not TOML"]),
        ("presets = 'no'", ["presets", "true or false", "'no'"]),
        ("seed = " + "9" * 5000, ["not TOML"]),
        ("seed = " + "[" * 2000, ["mine.toml"]),
        ('[data]\ndir = "\\u0000"\n', ["path"]),
    ],
    ids=lambda given: ascii(given)[:60],
)
def test_a_wrong_experiment_file_is_refused_with_a_sentence(tmp_path: Path, toml: str, words: list[str]) -> None:
    (tmp_path / "mine.toml").write_text(toml)
    sentence = said(sparsecore("train", "mine.toml", cwd=tmp_path))
    for word in words:
        assert word in sentence
    assert not (tmp_path / "runs").exists()


def test_an_existing_run_folder_is_left_unchanged(images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    sentence = said(sparsecore("train", *SMALL, "--data-dir", images, "--out", tmp_path / "run"))
    assert str(tmp_path / "run") in sentence
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_truncated_data_are_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(images.read_bytes()[:-100])
    sentence = said(sparsecore("train", *SMALL, "--data-dir", tmp_path / "cut.npz", cwd=tmp_path))
    assert "cut.npz" in sentence


def test_a_report_of_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path} is not the folder of a run, a study" in said(sparsecore("report", tmp_path))
    assert "there is no such folder" in said(sparsecore("report", tmp_path / "typing-error"))


def test_a_diverging_run_reports_divergence_and_exits_with_status_1(images: Path, tmp_path: Path) -> None:
    done = sparsecore(
        "train", *SMALL, "--data-dir", images, "--set", "training.learning_rate=1e30", "--out", tmp_path / "run"
    )
    assert done.returncode == 1
    assert "diverged" in done.stderr
    assert "Traceback" not in done.stderr
