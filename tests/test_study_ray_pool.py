"""``sparsecore study --on ray``, on this machine."""

import os
import signal
import subprocess
import sys
import tempfile
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
from sparsecore.study.ray_pool import RayOptions

pytestmark = pytest.mark.slow  # a cluster of Ray takes long to start


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Where Ray may write; a path that is short enough for its sockets."""
    pytest.importorskip("ray")
    home = tmp_path_factory.mktemp("home")
    with tempfile.TemporaryDirectory() as folder:
        yield {"RAY_TMPDIR": folder, "HOME": str(home)}


@pytest.fixture(scope="module")
def carried_out(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study_with_relative_paths(folder)
    command = ("study", "own.toml", "--out", "out", "--jobs", 2, "--on", "ray", "--on-set", "cpus=0.5", "--json")
    done = sparsecore(*command, cwd=folder, **environment)
    skip_where_ray_is_too_slow(done.stderr)
    return folder, done


def skip_where_ray_is_too_slow(output: str) -> None:
    """It gives itself half a minute, which cannot be changed."""
    if "Ray does not start on this machine" in output and "timed out during startup" in output:
        pytest.skip("Ray takes too long to start on this machine")


@pytest.mark.integration
def test_all_trials_run_on_ray_and_one_that_fails_is_named(carried_out):
    folder, done = carried_out
    assert_all_but_the_failing_ran(folder, done)


@pytest.mark.integration
def test_an_arm_on_ray_starts_when_the_one_that_it_starts_from_has_ended(carried_out):
    folder, _ = carried_out
    assert_an_arm_ran_on_the_final_topology_of_its_source(folder)


@pytest.mark.integration
def test_ray_is_quiet_and_leaves_nothing_in_the_home_folder(carried_out, environment):
    _, done = carried_out
    assert all(line.startswith(("sparsecore: ", "report: ")) for line in done.stderr.splitlines()), done.stderr
    assert not (Path(environment["HOME"]) / ".ray").exists()
    assert processes(environment["RAY_TMPDIR"]) == []


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_that_dies_fails_its_trial_alone_and_stopping_leaves_no_process_behind(environment, tmp_path):
    arguments = ["study", str(written(tmp_path, epochs=2_000)), "--out", str(tmp_path / "out")]
    study = subprocess.Popen(
        [sys.executable, "-m", "sparsecore", *arguments, "--trials", "2", "--jobs", "1", "--on", "ray"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        first, second = (tmp_path / f"out/runs/dpr-at-0.8-trial-{number}/metrics.jsonl" for number in range(2))
        until(lambda: study.poll() is not None or is_learning(first))
        if study.poll() is not None:
            output = study.stderr.read()
            skip_where_ray_is_too_slow(output)
            pytest.fail(output)
        os.kill(parent_of(str(first.parent)), signal.SIGKILL)
        until(lambda: is_learning(second))
        os.killpg(study.pid, signal.SIGINT)
        assert study.wait(60) == 130
    finally:
        study.kill()
        _, output = study.communicate()
    assert "dpr-at-0.8-trial-0: failed" in output
    assert "Ray lost this trial" in (tmp_path / "out/logs/dpr-at-0.8-trial-0.log").read_text()
    until(lambda: not processes(str(tmp_path)) and not processes(environment["RAY_TMPDIR"]))


def is_learning(metrics: Path) -> bool:
    return metrics.exists() and metrics.read_bytes().count(b"\n") >= 2


def parent_of(run: str) -> int:
    (worker,) = (process for process in processes(run) if "sparsecore.cli.worker" in process.command)
    return worker.parent


@pytest.mark.integration
def test_unavailable_resources_raise_one_error_sentence():
    def refused(*means: str) -> str:
        options = [part for one in means for part in ("--on-set", one)]
        return said(sparsecore("study", "fig1a", "--on", "ray", *options))

    assert "no key named 'gpu'; known: address, cpus, gpus" in refused("gpu=1")
    assert "given gpus = 1.5" in refused("gpus=1.5")


def test_a_missing_cluster_raises_one_error_sentence_without_a_long_wait():
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        create_pool("ray", PoolOptions(options={"address": "127.0.0.1:1"}))


def test_without_ray_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs ray.*sparsecore-engine\[ray\]"):
        create_pool("ray", PoolOptions())


@pytest.mark.parametrize(
    ("options", "resources", "trials"),
    [
        (RayOptions(), {"CPU": 16.0}, 16),
        (RayOptions(gpus=0.25), {"CPU": 16.0, "GPU": 2.0}, 8),
        (RayOptions(gpus=0.25, cpus=4), {"CPU": 16.0, "GPU": 2.0}, 4),
        (RayOptions(gpus=1), {"CPU": 16.0}, 0),
    ],
)
def test_as_many_trials_run_as_resources_allow(options, resources, trials):
    assert options.capacity(resources) == trials
