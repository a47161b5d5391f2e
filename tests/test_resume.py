"""A run that was killed at any time resumes, and ends bit for bit as if it had never stopped."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, said, small_images, sparsecore, train
from processes import start

from sparsecore.report import write_report

pytestmark = pytest.mark.usefixtures("quick_runs")

SAME = (
    "checkpoint.safetensors",
    "metrics.jsonl",
    "reallocations.jsonl",
    "tensors.json",
    "experiment.toml",
)

KILLED = """
import signal, sys
from sparsecore.cli import main

signal.setitimer(signal.ITIMER_REAL, float(sys.argv.pop(1)))
main()
"""
"""Runs ``sparsecore`` until the time is up; no code of Python runs then, as nothing handles the signal."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


def content(file: Path) -> bytes:
    """The page, without what tells how long a run took."""
    return re.sub(rb'<dl class="effort">.*?</dl>', b"", file.read_bytes(), flags=re.DOTALL)


def arguments(images: Path, folder: Path, *more: str) -> list[str]:
    settings = ("--epochs", "16", "--set", "strategy.schedule.steps=3")
    return [*SMALL, "--data-dir", str(images), *settings, *more, "--out", str(folder)]


@pytest.fixture(scope="module", params=["dpr", pytest.param("deepr", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train("--strategy", request.param, *arguments(images, folder))
    return request.param, folder


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="timers of POSIX")
@pytest.mark.parametrize("attempt", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_it_had_never_stopped(
    whole: tuple[str, Path], images: Path, tmp_path: Path, attempt: int
) -> None:
    strategy, reference = whole
    command = ["train", "--strategy", strategy, *arguments(images, tmp_path / "run")]
    kills = random.Random(attempt)
    for _ in range(3):
        (ended,) = start(["-c", KILLED, str(kills.uniform(0.05, 0.4)), *command, "--resume"], size=1)
        assert ended.status in (-signal.SIGALRM, 0), ended.stderr
    result = train("--strategy", strategy, *arguments(images, tmp_path / "run"), "--resume")
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (reference / name).read_bytes(), name
    assert result["topology_sha256"] == json.loads((reference / "result.json").read_text())["topology_sha256"]


def test_resuming_a_finished_run_prints_its_result_again(whole: tuple[str, Path], tmp_path: Path) -> None:
    _, reference = whole
    shutil.copytree(reference, tmp_path / "run")
    again = train("--resume", "--out", tmp_path / "run")
    assert again["test_accuracy"] == json.loads((reference / "result.json").read_text())["test_accuracy"]


@pytest.mark.usefixtures("drawn_reports")
def test_a_run_resumes_without_its_settings(whole: tuple[str, Path], tmp_path: Path) -> None:
    _, reference = whole
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/checkpoint.safetensors").unlink()
    train("--resume", "--out", tmp_path / "run")
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (reference / name).read_bytes(), name
    page = content(tmp_path / "run/report.html")
    assert b"<svg" in page
    assert page == content(write_report(reference))


def test_resuming_with_other_settings_is_refused_by_name(whole: tuple[str, Path], tmp_path: Path) -> None:
    _, reference = whole
    shutil.copytree(reference, tmp_path / "run")
    sentence = said(sparsecore("train", "--resume", "--out", tmp_path / "run", "--sparsity", "0.5"))
    assert "sparsity was 0.8, 0.5 is requested" in sentence


@pytest.mark.parametrize("place", [0, 8, 40, 400, -1])
def test_a_damaged_checkpoint_is_refused(whole: tuple[str, Path], tmp_path: Path, place: int) -> None:
    _, reference = whole
    shutil.copytree(reference, tmp_path / "run")
    checkpoint = tmp_path / "run/checkpoint.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[place] ^= 0x01
    checkpoint.write_bytes(content)
    (tmp_path / "run/result.json").unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    sentence = said(sparsecore("train", "--resume", "--out", tmp_path / "run"))
    assert "checkpoint" in sentence
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_truncated_checkpoint_is_refused(whole: tuple[str, Path], tmp_path: Path) -> None:
    _, reference = whole
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    checkpoint = tmp_path / "run/checkpoint.safetensors"
    for length in (0, 5, 100, len(checkpoint.read_bytes()) - 1):
        checkpoint.write_bytes((reference / "checkpoint.safetensors").read_bytes()[:length])
        assert "damaged" in said(sparsecore("train", "--resume", "--out", tmp_path / "run"))


def test_a_foreign_checkpoint_is_refused(whole: tuple[str, Path], images: Path, tmp_path: Path) -> None:
    strategy, reference = whole
    train("--strategy", strategy, *arguments(images, tmp_path / "run", "--seed", "1", "--epochs", "1"))
    shutil.copy(reference / "checkpoint.safetensors", tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    assert "other experiment" in said(sparsecore("train", "--resume", "--out", tmp_path / "run"))


def test_resuming_with_other_data_is_refused(whole: tuple[str, Path], tmp_path: Path) -> None:
    _, reference = whole
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    other = small_images(tmp_path / "other.npz")
    arrays = dict(np.load(other))
    arrays["x_train"][0, 0, 0] ^= 1
    np.savez(other, **arrays)
    sentence = said(sparsecore("train", "--resume", "--out", tmp_path / "run", "--data-dir", other))
    assert "other data" in sentence


def test_a_log_cut_short_is_refused(whole: tuple[str, Path], tmp_path: Path) -> None:
    _, reference = whole
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    (tmp_path / "run/metrics.jsonl").write_bytes(b"")
    assert "metrics.jsonl" in said(sparsecore("train", "--resume", "--out", tmp_path / "run"))


def test_resuming_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "no run folder" in said(sparsecore("train", "--resume", "--out", tmp_path))


@pytest.mark.integration
def test_resuming_a_run_of_another_running_process_is_refused(images: Path, tmp_path: Path) -> None:
    command = ["train", *arguments(images, tmp_path / "run", "--set", "training.epochs=100000")]
    process = subprocess.Popen([sys.executable, "-m", "sparsecore", *command], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run/metrics.jsonl").exists():
            time.sleep(0.05)
        assert "another process" in said(sparsecore("train", "--resume", "--out", tmp_path / "run"))
    finally:
        process.kill()
        process.wait()


def test_a_run_does_not_resume_with_changed_plugin_code(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from sparsecore_strategies.static import Static\n")
    command = [*SMALL, "--data-dir", str(images), "--strategy", "mine.py:Static", "--out", "run"]
    train(*command, cwd=tmp_path)
    (tmp_path / "mine.py").write_text("from sparsecore_strategies.static import Static  # changed\n")
    sentence = said(sparsecore("train", *command, "--resume", cwd=tmp_path))
    assert "other plugin code" in sentence


PLAIN = """
from sparsecore import Every, hookimpl


class Plain:
    def __init__(self, every):
        self.every = every

    @hookimpl
    def update_due(self, clock):
        return Every(steps=self.every)(clock)


SELDOM, OFTEN = Plain(50), Plain(5)
"""


def test_a_run_does_not_resume_with_other_options_of_a_plain_python_strategy(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "plain_strategies.py").write_text(PLAIN)
    command = [*SMALL, "--data-dir", str(images), "--strategy", "plain_strategies:SELDOM", "--out", "run"]
    train(*command, cwd=tmp_path)
    (tmp_path / "plain_strategies.py").write_text(PLAIN.replace("Plain(50)", "Plain(5)"))
    assert "strategies" in said(sparsecore("train", "--resume", "--out", "run", cwd=tmp_path))
