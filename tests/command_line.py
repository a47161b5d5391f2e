"""The command line as users meet it: a process of its own, its output and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SMALL = ("--model", "lenet-12-8", "--data", "npz", "--sparsity", "0.8", "--epochs", "3", "--batch-size", "16")
"""A run of a second: a small network on the images of :func:`small_images`."""


def sparsecore(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``sparsecore`` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "sparsecore", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
        timeout=300,
    )


def train(*arguments: str | Path, cwd: Path | None = None) -> dict[str, Any]:
    """``sparsecore train ... --json``, which must succeed; its result."""
    done = sparsecore("train", *arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def small_images(path: Path) -> Path:
    """An .npz of 4x4 images of two classes that a small network can tell apart: bright above, or bright below."""
    draws = np.random.default_rng(5)

    def split(examples: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        labels = np.arange(examples) % 2
        images = draws.integers(0, 120, (examples, 4, 4), dtype=np.uint8)
        images[labels == 0, :2] += np.uint8(100)
        images[labels == 1, 2:] += np.uint8(100)
        return images, labels

    (x_train, y_train), (x_test, y_test) = split(100), split(40)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def said(done: "subprocess.CompletedProcess[str]") -> str:
    """The one sentence of a refusal: exit status 2, nothing on standard output, no traceback."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()
