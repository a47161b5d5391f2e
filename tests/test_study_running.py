"""``sparsecore study``: a folder of runs that can be stopped, resumed, and survives what fails."""

import json
import subprocess
from pathlib import Path

import pytest
from command_line import said, small_images, sparsecore

from sparsecore.study.folder import StudyFolder

STUDY = """
title = "Does it work?"
figure = "bars"
sparsities = [0.8]
trials = 1

[options]
"model.name" = "lenet-12-8"
"data.name" = "npz"
"data.file" = "{images}"
"training.batch_size" = 16
"training.epochs" = {epochs}

[[arm]]
name = "dpr"
strategy = ["dpr"]

[[arm]]
name = "final"
strategy = ["static"]
after = "dpr"
settings = {{ "start.values" = "original" }}

[[arm]]
name = "failing"
strategy = ["{failing}"]

[[arm]]
name = "after-failing"
strategy = ["static"]
after = "failing"
settings = {{ "start.values" = "fresh" }}
"""
FAILING = """
import attrs
from sparsecore import hookimpl

@attrs.frozen(eq=False)
class Failing:
    @hookimpl
    def update_due(self, clock):
        assert clock.step < 5, "this arm fails in its fifth step"
        return False
"""


def written(folder: Path, epochs: int = 2) -> Path:
    """The study as a file, beside the images and the plugin that it names."""
    images = small_images(folder / "images.npz")
    (folder / "failing.py").write_text(FAILING)
    file = folder / "own.toml"
    file.write_text(STUDY.format(images=images, failing=f"{folder / 'failing.py'}:Failing", epochs=epochs))
    return file


def assert_all_but_the_failing_ran(folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
    """One trial an arm, wherever they ran; with ``--json``, and the study in ``out``."""
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert {cell["arm"]: len(cell["accuracies"]) for cell in result["cells"]} == {
        "dpr": 1,
        "final": 1,
        "failing": 0,
        "after-failing": 0,
    }
    assert result["failed"] == ["failing-at-0.8-trial-0"]
    assert result["skipped"] == ["after-failing-at-0.8-trial-0"]
    assert "this arm fails in its fifth step" in (folder / "out/logs/failing-at-0.8-trial-0.log").read_text()


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    folder = tmp_path_factory.mktemp("study")
    done = sparsecore("study", written(folder), "--out", folder / "out", "--trials", 2, "--jobs", 2, "--json")
    return folder, done


@pytest.mark.integration
def test_a_failing_trial_stops_no_other_and_is_named_at_the_end(carried_out):
    folder, done = carried_out
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["failed"] == ["failing-at-0.8-trial-0", "failing-at-0.8-trial-1"]
    assert result["skipped"] == ["after-failing-at-0.8-trial-0", "after-failing-at-0.8-trial-1"]
    finished = {cell["arm"]: len(cell["accuracies"]) for cell in result["cells"]}
    assert finished == {"dpr": 2, "final": 2, "failing": 0, "after-failing": 0}
    log = folder / "out" / "logs" / "failing-at-0.8-trial-1.log"
    assert f"sparsecore: failing-at-0.8-trial-1 failed; see {log}" in done.stderr
    assert "this arm fails in its fifth step" in log.read_text()
    assert "after-failing-at-0.8-trial-0 was skipped" in done.stderr


@pytest.mark.integration
def test_the_reported_numbers_are_those_of_the_runs(carried_out):
    folder, done = carried_out
    cell = json.loads(done.stdout)["cells"][0]
    results = [json.loads((folder / f"out/runs/dpr-at-0.8-trial-{i}/result.json").read_text()) for i in range(2)]
    accuracies = [result["test_accuracy"] for result in results]
    assert cell["accuracies"] == accuracies
    assert cell["mean"] == pytest.approx(sum(accuracies) / 2)
    assert cell["std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert results[0]["topology_sha256"] != results[1]["topology_sha256"]


@pytest.mark.integration
def test_an_arm_starts_on_the_final_topology_of_its_source(carried_out):
    folder, _ = carried_out
    ends = [
        json.loads((folder / f"out/runs/{arm}-at-0.8-trial-1/result.json").read_text())["topology_sha256"]
        for arm in ("dpr", "final")
    ]
    assert ends[0] == ends[1]


@pytest.mark.integration
def test_resuming_skips_finished_trials_and_retries_failed_ones(carried_out):
    folder, _ = carried_out
    results = sorted(folder.glob("out/runs/*/result.json"))
    before = [path.stat().st_mtime_ns for path in results]
    done = sparsecore("study", folder / "own.toml", "--out", folder / "out", "--resume", "--json")
    assert json.loads(done.stdout)["failed"] == ["failing-at-0.8-trial-0", "failing-at-0.8-trial-1"]
    assert [path.stat().st_mtime_ns for path in results] == before
    assert "4 of 8 trials finished" in done.stderr


@pytest.mark.slow
@pytest.mark.integration
def test_selecting_an_arm_runs_it_and_its_source_only(tmp_path):
    done = sparsecore("study", written(tmp_path), "--arm", "final", "--trials", 1, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert {cell["arm"]: len(cell["accuracies"]) for cell in json.loads(done.stdout)["cells"]} == {"dpr": 1, "final": 1}


@pytest.mark.integration
def test_show_prints_existing_results_without_running_anything(carried_out):
    folder, _ = carried_out
    done = sparsecore("study", "show", folder / "out")
    assert done.returncode == 0, done.stderr
    assert "4 of 8 trials finished" in done.stdout
    assert "2 of 2" in done.stdout
    shown = sparsecore("study", "show", folder / "out", "--json")
    assert [len(cell["accuracies"]) for cell in json.loads(shown.stdout)["cells"]] == [2, 2, 0, 0]
    left = {f"{arm}-at-0.8-trial-{number}" for arm in ("failing", "after-failing") for number in range(2)}
    assert set(json.loads(shown.stdout)["unfinished"]) == left


@pytest.mark.integration
def test_an_existing_study_is_neither_restarted_nor_resumed_with_changes(carried_out):
    folder, _ = carried_out
    assert "exists; give another --out, or --resume" in said(
        sparsecore("study", folder / "own.toml", "--out", folder / "out")
    )
    other = sparsecore("study", folder / "own.toml", "--out", folder / "out", "--resume", "--trials", 9)
    assert "another study" in said(other)
    assert "--resume needs --out" in said(sparsecore("study", folder / "own.toml", "--resume"))
    assert "not the folder of a study" in said(sparsecore("study", "show", folder))
    typo = folder / "typo"
    assert f"no study at {typo} to continue" in said(
        sparsecore("study", folder / "own.toml", "--out", typo, "--resume")
    )
    assert not typo.exists()


@pytest.mark.integration
def test_only_one_process_at_a_time_runs_a_study(carried_out):
    folder, _ = carried_out
    with StudyFolder(folder / "out").locked():
        other = sparsecore("study", folder / "own.toml", "--out", folder / "out", "--resume")
    assert f"another process is executing the study {folder / 'out'}" in said(other)


@pytest.mark.integration
def test_impossible_settings_are_refused_before_a_folder_is_created(tmp_path):
    out = ("--out", tmp_path / "out")
    assert "no study named 'fig2'; known: fig1a" in said(sparsecore("study", "fig2", *out))
    assert "no arm of the study has the strategy of strategy.set.start" in said(
        sparsecore("study", "fig1a", *out, "--set", "strategy.set.start=erk")
    )
    assert "no key named 'colour'" in said(sparsecore("study", "fig1a", *out, "--set", "training.colour=red"))
    assert "no such data" in said(sparsecore("study", "fig1a", *out, "--data", "npz", "--data-dir", "no such data"))
    assert "no pool named 'moon'; known: local, ray, slurm" in said(sparsecore("study", "fig1a", *out, "--on", "moon"))
    assert not (tmp_path / "out").exists()
