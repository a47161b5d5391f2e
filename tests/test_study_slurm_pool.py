"""``sparsecore study --on slurm``: with submitit's jobs on this machine, and the options that Slurm receives."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import said, sparsecore
from pool_examples import (
    assert_an_arm_ran_on_the_final_topology_of_its_source,
    processes,
    study_with_relative_paths,
)
from test_study_running import assert_all_but_the_failing_ran, written
from test_study_stopped import until

from sparsecore.errors import InputError
from sparsecore.study.pools import PoolOptions, create_pool

HERE = ("--on", "slurm", "--on-set", "cluster=local")
SLURM = {
    # the jobs' files say all that is asked of Slurm
    # as Slurm's, the script is a copy: whoever submits one may move it away at once
    "sbatch": 'cp "$1" "$0.$$"; SLURM_JOB_ID=$$ setsid sh "$0.$$" > /dev/null 2>&1 & echo "Submitted batch job $$"',
    "srun": 'while [ "${1#--}" != "$1" ]; do [ "$1" = --unbuffered ] || shift; shift; done; exec "$@"',
    "sacct": 'echo "JobID|State|NodeList"',
}
"""As much of Slurm as a study needs where nothing goes wrong: jobs run at once, on this machine."""


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("study")
    study_with_relative_paths(folder)
    return folder, sparsecore("study", "own.toml", "--out", "out", "--jobs", 2, *HERE, "--json", cwd=folder)


@pytest.mark.slow
@pytest.mark.integration
def test_all_trials_run_as_jobs_and_one_that_fails_is_named(carried_out):
    folder, done = carried_out
    assert_all_but_the_failing_ran(folder, done)
    assert all(line.startswith(("sparsecore: ", "report: ")) for line in done.stderr.splitlines()), done.stderr


@pytest.mark.integration
def test_an_arm_starts_when_the_job_that_it_starts_from_has_ended(carried_out):
    folder, _ = carried_out
    assert_an_arm_ran_on_the_final_topology_of_its_source(folder)


@pytest.mark.slow
@pytest.mark.integration
def test_a_preempted_trial_resumes_and_stopping_leaves_no_process_behind(tmp_path):
    pytest.importorskip("submitit")
    arguments = ["study", str(written(tmp_path, epochs=2_000)), "--out", str(tmp_path / "out"), "--jobs", "2", *HERE]
    study = subprocess.Popen([sys.executable, "-m", "sparsecore", *arguments], stderr=subprocess.DEVNULL)
    try:
        metrics = tmp_path / "out/runs/dpr-at-0.8-trial-0/metrics.jsonl"
        until(lambda: len(epochs(metrics)) >= 5)
        (first,) = submitted("dpr-at-0.8-trial-0", tmp_path)
        os.kill(first, signal.SIGUSR2)
        until(lambda: submitted("dpr-at-0.8-trial-0", tmp_path) not in ([], [first]))
        after = len(epochs(metrics))
        until(lambda: len(epochs(metrics)) > after + 2)
        assert epochs(metrics) == list(range(1, len(epochs(metrics)) + 1))
        study.send_signal(signal.SIGINT)
        assert study.wait(60) == 130
    finally:
        study.kill()
        study.wait(60)
    until(lambda: not processes(str(tmp_path)))


def epochs(metrics: Path) -> list[int]:
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("\n")]


def submitted(trial: str, folder: Path) -> list[int]:
    """The process that Slurm would send its signals to, while there is one."""
    found = [each for each in processes(trial) if "submitit.core._submit" in each.command]
    return [each.number for each in found if str(folder) in each.command]


@pytest.mark.slow
@pytest.mark.integration
def test_options_are_passed_to_slurm(tmp_path):
    pytest.importorskip("submitit")
    for name, what in SLURM.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{what}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    asked = {"partition": "gpus", "account": "lab", "qos": "long", "constraint": "a100", "time": "90"}
    given = {**asked, "cpus": "4", "gpus": "1", "memory": "2.5"}
    options = [part for key, value in given.items() for part in ("--on-set", f"{key}={value}")]
    out = tmp_path / "out"
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = sparsecore("study", written(tmp_path), "--out", out, "--on", "slurm", *options, "--json", PATH=path)
    assert [len(cell["accuracies"]) for cell in json.loads(done.stdout)["cells"]] == [1, 1, 0, 0], done.stderr
    (script,) = (out / "logs/submitit/final-at-0.8-trial-0").glob("*_submission.sh")
    lines = script.read_text().splitlines()
    assert {f"#SBATCH --{key}={value}" for key, value in asked.items()} <= {*lines}
    assert {"#SBATCH --cpus-per-task=4", "#SBATCH --gpus-per-node=1", "#SBATCH --mem=2560MB"} <= {*lines}
    assert "#SBATCH --job-name=final-at-0.8-trial-0" in lines
    (srun,) = (line for line in lines if line.startswith("srun"))
    assert "--cpus-per-task 4" in srun


@pytest.mark.integration
def test_impossible_slurm_options_raise_one_error_sentence(tmp_path):
    def refused(*means: str) -> str:
        options = [part for one in means for part in ("--on-set", one)]
        return said(sparsecore("study", "fig1a", "--out", tmp_path / "out", "--on", "slurm", *options))

    assert "no key named 'gpu'; known: cluster, partition, account" in refused("gpu=1")
    assert "one of 'slurm', 'local' was expected, given 'moon'" in refused("cluster=moon")
    assert "'time' must be >= 1" in refused("time=0")


def test_without_slurm_the_error_says_how_to_try_the_pool(monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"this machine has no Slurm: .* --on-set cluster=local"):
        create_pool("slurm", PoolOptions())


def test_without_submitit_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"needs submitit.*sparsecore-engine\[slurm\]"):
        create_pool("slurm", PoolOptions())
