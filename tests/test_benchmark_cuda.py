"""``benchmarks/torch_cuda.py`` is rehearsed on the CPU: its stages, what it keeps, and what its page says."""

import importlib
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from sparsecore.cli.command_line import commands

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SIZES = {"side": 8, "batch": 2, "images": 2, "rounds": 1, "steps": 1, "warm-up": 1, "epochs": 1, "model": "lenet-12-8"}
SMALL = [part for name, size in SIZES.items() for part in (f"--{name}", str(size))]
TESTS = """
def test_one_of_cuda(): pass
def test_another_of_cuda(): assert 0
def test_of_none(): pass
"""


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("torch_cuda")


@pytest.fixture
def stages(benchmark):  # noqa: ARG001 it puts the folder on the path
    return importlib.import_module("stages")


def rehearse(benchmark, out, *more):
    return benchmark.main(["--device", "cpu", "--out", str(out), *SMALL, *more])


def kept(out):
    return json.loads((out / "torch_cuda.json").read_text("utf-8"))


def test_finished_stages_are_measured_once_and_the_page_lists_what_is_missing(benchmark, tmp_path, monkeypatch, capsys):
    ran = []

    def here(command, seconds, **_):
        assert seconds > 0
        ran.append(command[3:])
        commands([*command[3:]], standalone_mode=False)
        return capsys.readouterr().out

    monkeypatch.setattr(benchmark, "output_of", here)
    chosen = ("--only", "step: sparsify, masked, bfloat16", "--only", "step: torch*float32", "--only", "update")
    assert rehearse(benchmark, tmp_path, *chosen, "--only", "epoch*") == 0
    found = kept(tmp_path)["stages"]
    assert set(found) == {
        "step: sparsify, masked, bfloat16",
        "step: torch, dense, float32",
        "step: torch backend, float32",
        "update",
        "epoch of sparsecore train",
    }
    assert found["step: torch, dense, float32"]["step_ms"] > 0
    assert found["epoch of sparsecore train"]["steps"] == 15
    page = (tmp_path / "torch_cuda.md").read_text("utf-8")
    assert "rehearsal" in page
    assert "| torch, dense | float32 | yes | not measured | not measured | not measured |" in page
    assert "- tests: not measured" in page
    assert "- trial of fig1a: not measured" in page

    monkeypatch.setattr(benchmark, "_measured", lambda *_: 1 // 0)  # nothing is measured again
    assert rehearse(benchmark, tmp_path, *chosen, "--only", "epoch*") == 0
    assert [command[0] for command in ran] == ["train"]
    assert kept(tmp_path)["stages"] == found
    with pytest.raises(SystemExit, match="batch"):
        rehearse(benchmark, tmp_path, "--batch", "3")


@pytest.mark.slow
def test_tests_are_counted_file_by_file_and_resume_where_they_stopped(benchmark, stages, tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / "tests" / name).write_text(TESTS)
    ran = []

    def interrupted(command, seconds, **options):
        ran.append(command[-1])
        if len(ran) == 3:
            raise stages.Unfinished
        return stages.output_of(command, seconds, **options)

    monkeypatch.setattr(benchmark, "output_of", interrupted)
    arguments = ("--only", "tests", "--tests", str(tmp_path / "tests"))
    assert rehearse(benchmark, tmp_path, *arguments) == 1
    assert kept(tmp_path)["stages"] == {}
    assert rehearse(benchmark, tmp_path, *arguments) == 0
    files = kept(tmp_path)["stages"]["tests"]["files"]
    assert [(each["passed"], each["failed"], len(each["names"])) for each in files.values()] == [(1, 1, 1)] * 2
    first, second = files
    assert ran == [str(tmp_path / "tests"), first, second, str(tmp_path / "tests"), second]


def test_a_trial_of_fig1a_runs_the_command_line_and_resumes(benchmark, tmp_path, monkeypatch):
    cells = [{"arm": "dpr", "sparsity": 0.9, "accuracies": [0.5], "mean": 0.5}]
    answers = [{"unfinished": ["dpr"], "failed": [], "cells": []}, {"unfinished": [], "failed": [], "cells": cells}]
    ran = []

    def answered(command, seconds, **_):  # noqa: ARG001
        ran.append(command)
        (tmp_path / "torch_cuda_fig1a").mkdir(exist_ok=True)  # as the study does
        return json.dumps(answers.pop(0))

    monkeypatch.setattr(benchmark, "output_of", answered)
    assert rehearse(benchmark, tmp_path, "--only", "trial*") == 1
    assert "trial of fig1a: not measured, RuntimeError" in (tmp_path / "torch_cuda.md").read_text("utf-8")
    assert rehearse(benchmark, tmp_path, "--only", "trial*") == 0
    assert "| dpr | 0.9 | 0.5000 |" in (tmp_path / "torch_cuda.md").read_text("utf-8")
    assert "RuntimeError" not in (tmp_path / "torch_cuda.md").read_text("utf-8")
    assert {"study", "fig1a", "--trials", "backend.device=cpu"} <= set(ran[0])
    assert [part for part in ran[1] if part != "--resume"] == ran[0]
    assert "--resume" in ran[1]


def test_a_process_is_interrupted_when_its_time_is_up(stages):
    with pytest.raises(stages.Unfinished):
        stages.output_of([sys.executable, "-c", "import time; time.sleep(60)"], 0.1)
    with pytest.raises(RuntimeError, match=r"exit status 3: this is why"):
        stages.output_of([sys.executable, "-c", "import sys; print('this is why', file=sys.stderr); sys.exit(3)"], 60)


def test_without_a_device_nothing_is_measured_and_a_rehearsal_requires_an_output_folder(benchmark, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    assert benchmark.main([]) == 0
    assert "not measured" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cpu"])


def test_a_stage_that_needs_more_time_than_is_left_is_not_started(stages, tmp_path):
    record = stages.Record.of(tmp_path / "record.json", {})
    asked = []
    long = stages.Stage("long", lambda left: asked.append(left) or {}, needs=100)
    broken = stages.Stage("broken", lambda _: 1 // 0)
    short = stages.Stage("short", lambda left: asked.append(left) or {"found": 1})
    assert stages.measure_all([long, broken, short], record, 50, {}) == ["long", "broken"]
    assert len(asked) == 1
    again = stages.Record.of(tmp_path / "record.json", {})
    assert again.finished == {"short": {"found": 1}}
    assert "ZeroDivisionError" in again.failed["broken"]
    # what has failed comes after what has not been tried
    order = []
    last = [stages.Stage(name, lambda _, name=name: order.append(name) or {}) for name in ("broken", "new")]
    assert stages.measure_all(last, again, 50, {}) == []
    assert order == ["new", "broken"]
    assert again.failed == {}
