"""Formats have versions: what a later or an earlier version has written is refused in a sentence that names both."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, small_images
from in_process import run_in_process
from pages import code, read
from sealed_content import entry_of, rewrite

from sparsecore.errors import InputError
from sparsecore.formats import FORMATS, Format
from sparsecore.run.checkpoint import read_checkpoint
from sparsecore.run.folder import RunFolder
from sparsecore.study.definition import load_study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.strategy_comparison.folder import ComparisonFolder

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    images = small_images(folder / "small.npz")
    settings = ("--epochs", "1", "--set", "strategy.schedule.steps=3", "--backend", "numpy")
    done = run_in_process("train", *SMALL, *settings, "--data-dir", images, "--out", folder / "run")
    assert done.status == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_versions_that_are_read_are_accepted_and_all_others_refused_by_name(one: Format) -> None:
    assert one.check(one.text, "the file x") == one.version
    for number in range(one.oldest, one.version + 1):
        assert one.check(f"sparsecore {one.name} {number}", "the file x") == number
    with pytest.raises(
        InputError, match=rf"the file x .* {one.version + 1}'.* later version .*version.* {one.version}"
    ):
        one.check(f"sparsecore {one.name} {one.version + 1}", "the file x")
    for number in range(1, one.oldest):
        with pytest.raises(InputError, match=rf"the file x .* {number}'.* no longer reads"):
            one.check(f"sparsecore {one.name} {number}", "the file x")
    others = [other.text for other in FORMATS if other is not one]
    strange = [
        "",
        f"sparsecore {one.name}",
        f"sparsecore {one.name} 0",
        f"sparsecore {one.name} 01",
        f"{one.text} ",
        "x",
    ]
    for found in (*others, *strange, None, 3, True, [], {}, f"sparsecore {one.name} ²", "9" * 10**5):
        with pytest.raises(InputError, match=f"the file x is no {one.what}.*{one.text}") as refused:
            one.check(found, "the file x")
        assert len(str(refused.value)) < 300


def test_the_page_has_the_version_of_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    page = read("docs/formats.md")
    for block in code("docs/formats.md"):
        exec(block, {})
    listed = capsys.readouterr().out
    for one in FORMATS:
        assert f'`"{one.text}"`' in page, one.text
        assert repr(one.text) in listed


def as_text(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


RESUME = ("train", "--resume", "--out")


@pytest.mark.parametrize(
    ("name", "command"),
    [("experiment.toml", RESUME), ("experiment.toml", ("report",)), ("result.json", ("report",))],
)
def test_a_run_folder_of_a_later_version_is_refused(run: Path, tmp_path: Path, name: str, command: Any) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    as_text(folder / name, "sparsecore run 1", "sparsecore run 2")
    done = run_in_process(*command, folder)
    assert "'sparsecore run 2', which a later version of sparsecore has written" in done.sentence
    assert "version 1" in done.sentence


def test_a_run_folder_without_a_number_is_of_version_1(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    as_text(folder / "experiment.toml", 'format = "sparsecore run 1"\n', "")
    for name in ("result.json", "tensors.json", "seconds.json"):
        fields = json.loads((folder / name).read_text("utf-8"))
        assert fields.pop("format") == "sparsecore run 1"
        del fields["sha256"]
        (folder / name).write_text(json.dumps(fields), "utf-8")
    assert RunFolder(folder).read_tables() == RunFolder(run).read_tables()
    for command in (("report", folder), ("train", "--resume", "--out", folder)):
        assert run_in_process(*command).status == 0


def test_the_experiment_of_a_run_is_an_experiment_of_another_one(run: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "again.toml"
    experiment.write_bytes((run / "experiment.toml").read_bytes())
    assert tomllib.loads(experiment.read_text("utf-8"))["format"] == "sparsecore run 1"
    assert run_in_process("train", experiment, "--epochs", "1", "--out", tmp_path / "again").status == 0
    as_text(experiment, "sparsecore run 1", "sparsecore checkpoint 2")
    assert "is no run folder" in run_in_process("train", experiment, "--out", tmp_path / "other").sentence
    assert not (tmp_path / "other").exists()


def test_checkpoints_of_other_versions_are_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes((run / "checkpoint.safetensors").read_bytes())
    assert entry_of(path)["format"] == "sparsecore checkpoint 2"
    for text, sentence in (
        ("sparsecore checkpoint 3", "later version"),
        ("sparsecore checkpoint 1", "no longer reads"),
        ("sparsecore network 2", "is no checkpoint of a run"),
    ):
        rewrite(path, format=text)
        with pytest.raises(InputError, match=f"{path}.*{text}.*{sentence}|{path}.*{sentence}.*{text}"):
            read_checkpoint(path)


def small_study(folder: Path) -> Path:
    definition = folder / "small.toml"
    definition.write_text(
        'title = "small"\nfigure = "bars"\nsparsities = [0.8]\ntrials = 1\n[[arm]]\nname = "set"\nstrategy = ["set"]\n'
        '[options]\n"model.name" = "lenet-12-8"\n"data.name" = "digits"\n',
        "utf-8",
    )
    return definition


def test_the_definition_of_a_study_has_its_version_and_a_later_one_is_refused(tmp_path: Path) -> None:
    definition = small_study(tmp_path)
    folder = StudyFolder(tmp_path / "study").create(load_study(str(definition)))
    assert tomllib.loads(folder.study.read_text("utf-8"))["format"] == "sparsecore study 1"
    assert folder.read() == load_study(str(folder.study))
    as_text(folder.study, "sparsecore study 1", "sparsecore study 2")
    for attempt in (folder.read, lambda: load_study(str(folder.study))):
        with pytest.raises(InputError, match=r"'sparsecore study 2', which a later version .* version 1"):
            attempt()


def lottery(folder: Path, images: Path) -> tuple[str, ...]:
    settings = ("--model", "lenet-12-8", "--data", "npz", "--data-dir", str(images), "--epochs", "1", "--rounds", "1")
    return ("lottery", *settings, "--backend", "numpy", "--out", str(folder))


def test_the_definition_of_a_lottery_has_its_version_and_a_later_one_is_refused(run: Path, tmp_path: Path) -> None:
    command = lottery(tmp_path / "lottery", run.parent / "small.npz")
    assert run_in_process(*command).status == 0
    file = tmp_path / "lottery/lottery.toml"
    assert tomllib.loads(file.read_text("utf-8"))["format"] == "sparsecore lottery 1"
    assert run_in_process(*command, "--resume").status == 0
    as_text(file, "sparsecore lottery 1", "sparsecore lottery 2")
    assert "'sparsecore lottery 2', which a later version" in run_in_process(*command, "--resume").sentence


def test_the_definition_of_a_comparison_has_its_version_and_a_later_one_is_refused(tmp_path: Path) -> None:
    from sparsecore.study.strategy_comparison.composition import default_comparison

    folder = ComparisonFolder(tmp_path / "comparison").create(default_comparison())
    assert tomllib.loads(folder.definition.read_text("utf-8"))["format"] == "sparsecore comparison 1"
    assert folder.read() == default_comparison()
    as_text(folder.definition, "sparsecore comparison 1", "sparsecore comparison 2")
    with pytest.raises(InputError, match="'sparsecore comparison 2', which a later version"):
        folder.read()


def test_a_file_for_predictions_of_a_later_version_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sparsecore_cpu._kernels")
    from inference_examples import network_of

    from sparsecore_cpu.inference import Predictor
    from sparsecore_models.lenet import LeNet

    path = tmp_path / "network.safetensors"
    Predictor.of(network_of(LeNet((12, 8)))).save(path)
    for text in ("sparsecore network 3", "sparsecore model 3"):
        rewrite(path, format=text)
        with pytest.raises(InputError, match=f"{text}', which a later version .* versions 1 to 2"):
            Predictor.load(path)


def test_state_dicts_and_sparse_files_of_other_versions_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file
    from sparsify_examples import mlp, sgd

    from sparsecore_torch import export, sparsify

    model = mlp()
    training = sparsify(model, sgd(model), strategy="set", sparsity=0.8)
    saved = training.state_dict()
    assert saved["format"] == "sparsecore sparse training 2"
    for text, sentence in (
        ("sparsecore sparse training 3", "later version .* version 2"),
        ("sparsecore sparse training 1", "no longer reads; it reads version 2"),
        ("sparsecore sparse model 1", "expected 'sparsecore sparse training 2'"),
    ):
        with pytest.raises(InputError, match=sentence):
            training.load_state_dict({**saved, "format": text})
    path = tmp_path / "model.safetensors"
    export.save_sparse(training, path)
    entry = entry_of(path)
    assert entry["format"] == "sparsecore sparse model 1"
    newer = json.dumps({**entry, "format": "sparsecore sparse model 2"})
    save_file(load_file(path), path, {"sparsecore": newer})
    with pytest.raises(
        InputError, match=r"model\.safetensors has .*sparse model 2', which a later version .* version 1"
    ):
        export.load_sparse(mlp(), path)
