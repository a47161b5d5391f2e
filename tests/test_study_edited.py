"""A study is what it was begun as: edits are refused by their names, and no report claims what was not run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import contents, no_waiting_for_the_disk, run_in_process
from study_examples import small_study

from sparsecore.errors import InputError
from sparsecore.study.folder import StudyFolder
from sparsecore.study.trials import trials_of

CHANGES = {
    "epochs": ('"training.epochs" = 2', '"training.epochs" = 5', "options.training.epochs was 2, 5"),
    "trials": ("trials = 2", "trials = 3", "trials was 2, 3"),
    "sparsities": ("0.6", "0.7", "sparsities"),
    "an arm's strategy": ('"set",\n', '"set",\n"gradient-growth",\n', "arm.set.strategy"),
    "an arm's label": ('label = "DPR"', 'label = "Dpr"', "arm.dpr.label"),
    "an arm's settings": ('"start.values" = "original"', '"start.values" = "fresh"', "arm.again.settings"),
    "an option": ('"training.batch_size" = 16', '"training.batch_size" = 8', "options.training.batch_size"),
    "an arm's name": ('"random"', '"other"', "arm.other"),
}


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    with no_waiting_for_the_disk():
        return small_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(carried_out: StudyFolder, tmp_path: Path) -> StudyFolder:
    shutil.copytree(carried_out.path, tmp_path / "study")
    return StudyFolder(tmp_path / "study")


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("command", ["show", "report", "resume"])
def test_an_edited_study_is_refused_naming_the_change(study: StudyFolder, kind: str, command: str) -> None:
    before, after, expected = CHANGES[kind]
    text = study.study.read_text("utf-8")
    assert before in text
    study.study.write_text(text.replace(before, after), "utf-8")
    known = contents(study.path)
    arguments = {
        "show": ["study", "show", study.path],
        "report": ["report", study.path],
        "resume": ["study", study.study, "--resume", "--out", study.path],
    }[command]
    ended = run_in_process(*arguments)
    assert ended.status == 2
    assert expected in ended.sentence
    assert contents(study.path) == known


def test_an_edited_experiment_of_a_trial_is_refused(study: StudyFolder) -> None:
    trial = trials_of(study.read())[0]
    file = study.experiment(trial)
    file.write_text(file.read_text("utf-8").replace("epochs = 2", "epochs = 6"), "utf-8")
    for arguments in (["report", study.path], ["study", "show", study.path]):
        assert trial.name in run_in_process(*arguments).sentence


def test_a_run_with_other_settings_is_not_accepted_as_a_trial(study: StudyFolder) -> None:
    trial = trials_of(study.read())[0]
    result = study.run(trial).result
    other = {**json.loads(result.read_text("utf-8")), "experiment_sha256": "0" * 64}
    del other["sha256"]  # a file of before there were checksums has none
    result.write_text(json.dumps(other), "utf-8")
    with pytest.raises(InputError, match=trial.name):
        study.result(trial)
    assert "other settings" in run_in_process("report", study.path).sentence


def test_a_trial_that_was_trained_by_hand_with_other_settings_is_refused(study: StudyFolder) -> None:
    trial = trials_of(study.read())[0]
    shutil.rmtree(study.run(trial).path)
    with no_waiting_for_the_disk():
        ended = run_in_process("train", study.experiment(trial), "--epochs", "3", "--out", study.run(trial).path)
    assert ended.status == 0, ended.stderr
    assert trial.name in run_in_process("study", "show", study.path).sentence


@pytest.mark.integration
def test_an_unedited_study_is_shown(study: StudyFolder) -> None:
    assert run_in_process("study", "show", study.path, "--json").status == 0


@pytest.mark.integration
def test_a_study_of_another_running_process_is_refused(study: StudyFolder) -> None:
    code = "import sys, time; from sparsecore.study.folder import StudyFolder; from pathlib import Path\n"
    code += "with StudyFolder(Path(sys.argv[1])).locked():\n print('held', flush=True); sys.stdin.read()"
    held = subprocess.Popen(
        [sys.executable, "-c", code, str(study.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with held:
        assert held.stdout is not None
        held.stdout.readline()
        with pytest.raises(InputError, match="another process"), study.locked():
            pass
        held.kill()
        held.wait()
    with study.locked():
        pass


@pytest.mark.parametrize("content", ["", "5", "{}", "{", '{"test_accuracy": NaN, "seconds": 1.0}'])
@pytest.mark.parametrize("name", ["study.toml", "manifest.json", "result.json"])
def test_a_damaged_study_file_raises_one_error_sentence_naming_it(
    carried_out: StudyFolder, study: StudyFolder, name: str, content: str
) -> None:
    trial = trials_of(carried_out.read())[0]
    paths = {"study.toml": study.study, "manifest.json": study.manifest, "result.json": study.run(trial).result}
    paths[name].write_text(content, "utf-8")
    for command in (["report", study.path], ["study", "show", study.path]):
        ended = run_in_process(*command)
        assert ended.status == 2
        assert name in ended.sentence or trial.name in ended.sentence or str(study.path) in ended.sentence
