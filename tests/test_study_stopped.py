"""A study that was stopped at any time leaves no process behind and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree

import pytest
from command_line import said, sparsecore
from test_study_running import written

from sparsecore.study.definition import load_study
from sparsecore.study.folder import StudyFolder


@pytest.mark.slow
@pytest.mark.integration
def test_a_study_interrupted_during_its_creation_is_completed(tmp_path):
    file, out = written(tmp_path), ("--arm", "final", "--out", tmp_path / "out")
    study = StudyFolder(tmp_path / "out")
    study.create(load_study(str(file)).only(["final"]))
    rmtree(study.path / "logs")
    for experiment in study.path.glob("experiments/final*"):
        experiment.unlink()
    assert "no experiment of final-at-0.8-trial-0; --resume" in said(sparsecore("study", "show", study.path))
    done = sparsecore("study", file, *out, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["unfinished"] == []


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_study_leaves_no_process_behind_and_resumes(by, tmp_path):
    arguments = ["study", str(written(tmp_path, epochs=40)), "--out", str(tmp_path / "out"), "--jobs", "2"]
    study = subprocess.Popen([sys.executable, "-m", "sparsecore", *arguments], stderr=subprocess.DEVNULL)
    metrics = tmp_path / "out/runs/dpr-at-0.8-trial-0/metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 2)
    study.send_signal(by)
    assert study.wait(60) in (130, -signal.SIGKILL)
    until(lambda: not trained_in(tmp_path))
    epochs = metrics.read_bytes().count(b"\n")
    assert 2 <= epochs < 40
    done = sparsecore(*arguments, "--resume", "--json")
    assert [len(cell["accuracies"]) for cell in json.loads(done.stdout)["cells"]] == [1, 1, 0, 0]


def trained_in(folder: Path) -> list[str]:
    """The processes that have the folder in their command."""
    listed = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line and "worker" in line]


def until(is_so) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)
