"""The demo learns the digits, and a run of its size that is killed again and again ends as if it had not been."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import train


def test_the_demo_learns_the_digits(tmp_path: Path) -> None:
    # on one thread, as another process runs tests at the same time; results do not depend on their number
    threads = ("--set", "backend.threads=1") if find_spec("sparsecore_cpu") else ()
    result = train(*threads, cwd=tmp_path)
    assert result["test_accuracy"] > 0.95
    assert result["sparse_parameters"] == 145_139
    # one channel in place of three at the first convolution
    assert result["dense_parameters"] == 16_090 - 2 * 9 * 16
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-5)


@pytest.mark.integration
@pytest.mark.slow
def test_the_demo_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    train("--out", tmp_path / "whole")
    command = [
        sys.executable,
        "-m",
        "sparsecore",
        "train",
        "--data",
        "digits",
        "--out",
        str(tmp_path / "killed"),
        "--resume",
    ]
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(7)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    train("--data", "digits", "--out", tmp_path / "killed", "--resume")
    for name in ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
