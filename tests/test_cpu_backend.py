"""The plugin: its settings, its refusals, and a run that resumes bit for bit."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from command_line import SMALL, said, small_images, sparsecore, train
from test_numpy_learner import assert_equal_states, batch_of, batches, reallocation_of, task_of

from sparsecore.errors import InputError
from sparsecore.learning.protocols import Adam, Sgd
from sparsecore.testing import BackendTests
from sparsecore_cpu import CpuBackend
from sparsecore_cpu.runtime import KERNELS, Runtime, kernel_names

pytestmark = pytest.mark.usefixtures("quick_runs")


class TestPromises(BackendTests):
    """Those of every backend."""

    backend = CpuBackend(2)
    max_examples = 50


def test_thread_counts_are_positive_or_zero_for_all_cores() -> None:
    with pytest.raises(InputError, match="1 or more threads, or 0 for all; given -1"):
        CpuBackend(-1)
    assert CpuBackend().threads == 0


@pytest.mark.parametrize("name", kernel_names())
def test_the_environment_selects_the_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS, name)
    assert Runtime.of(1).kernels.name == name


def test_the_fastest_supported_kernels_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS, raising=False)
    assert Runtime.of(1).kernels.name == kernel_names()[0]
    assert kernel_names()[-1] == "baseline"


def test_unknown_kernels_are_refused_with_the_available_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS, "avx3")
    with pytest.raises(InputError, match=rf"{KERNELS} is 'avx3'; .* {', '.join(kernel_names())}"):
        Runtime.of(1)


@pytest.mark.integration
def test_the_command_line_refuses_wrong_options_with_one_error_sentence(tmp_path: Path) -> None:
    data = ("--data-dir", small_images(tmp_path / "small.npz"), "--backend", "cpu", "--out", tmp_path / "run")
    assert "given -2" in said(sparsecore("train", *SMALL, *data, "--set", "backend.threads=-2"))
    assert "'avx3'" in said(sparsecore("train", *SMALL, *data, SPARSECORE_CPU_KERNELS="avx3"))


@pytest.mark.integration
def test_a_run_that_is_killed_and_resumed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = ("--data-dir", small_images(tmp_path / "small.npz"), "--backend", "cpu", "--epochs", "40")
    arguments = (*SMALL, *data, "--set", "strategy.schedule.steps=3")
    train(*arguments, "--out", tmp_path / "whole")
    killed = tmp_path / "killed"
    for epochs in (1, 15):
        command = [sys.executable, "-m", "sparsecore", "train", *map(str, arguments), "--out", str(killed), "--resume"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and lines(killed / "metrics.jsonl") < epochs:
            time.sleep(0.01)
        process.kill()
        process.wait()
    train(*arguments, "--out", killed, "--resume")
    assert lines(killed / "reallocations.jsonl") > 10
    for name in ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


@pytest.mark.integration
def test_importing_the_plugin_loads_no_kernels_and_no_other_library() -> None:
    others = ["sparsecore_cpu._kernels", "sparsecore.host.learner", "scipy", "sklearn", "torch", "matplotlib"]
    script = f"import sys, sparsecore_cpu; print([name for name in sys.modules if name in {others}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.integration
def test_a_process_that_exits_while_it_holds_a_network_prints_nothing() -> None:
    script = (
        "import gc, test_cpu_backend as t\n"
        "learner = t.CpuBackend(2).learner(t.task_of('float32'))\n"
        "learner.train(t.batch_of(range(9)), 0.1)\n"
        "t.kept = [learner]\n"
        "t.kept.append(t.kept)\n"
        "gc.freeze()\n"  # the collector leaves it alone from now on
    )
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=here)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("optimizer", [Sgd(weight_decay=0.01), Adam()])
def test_a_learner_that_loads_a_state_resumes_bit_for_bit(optimizer: Sgd | Adam) -> None:
    task = task_of("float32", optimizer=optimizer)
    learner, other = CpuBackend(1).learner(task), CpuBackend(2).learner(task)
    for batch in batches(3):
        learner.train(batch, 0.1)
    reallocation = reallocation_of(task, learner.values)
    learner.reallocate(reallocation)
    learner.train(batch_of(range(5)), 0.1)
    other.train(batch_of(range(30)), 0.5)
    other.load_state(reallocation.after, learner.state())
    for size in 16, 5, 40:
        for batch in batches(2, size):
            learner.train(batch, 0.1)
            other.train(batch, 0.1)
    assert_equal_states(other.state(), learner.state())
    assert other.totals() == learner.totals()
