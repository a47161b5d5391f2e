"""The command line as users meet it: its output and its exit status."""

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import can_fork, fork

from sparsecore.cli.command_line import _show_warning, run
from sparsecore.cli.output import print_traceback

SMALL = ("--model", "lenet-12-8", "--data", "npz", "--sparsity", "0.8", "--epochs", "3", "--batch-size", "16")
"""A run of a second: a small network on the images of :func:`small_images`."""


def sparsecore(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``sparsecore`` with these arguments as :func:`sparsecore_process` does, but within this process.

    Starting an interpreter and importing the libraries takes longer than most of the commands. With variables of the
    environment, which libraries read when they are imported, a process of its own is started all the same.
    """
    if environment:
        return sparsecore_process(*arguments, cwd=cwd, **environment)
    texts = [*map(str, arguments)]
    with (
        contextlib.chdir(cwd or Path.cwd()),
        own_modules(Path.cwd()),
        _shown_warnings(),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            status = run(texts)
        except Exception as error:
            print_traceback(type(error), error, error.__traceback__)
            status = 1
    return subprocess.CompletedProcess(texts, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _shown_warnings() -> Iterator[None]:
    """Warnings are shown as in a new interpreter, where the tests would raise them."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        patch.setattr(warnings, "showwarning", _show_warning)
        yield


@contextlib.contextmanager
def own_modules(folder: Path) -> Iterator[None]:
    """Modules of the folder can be imported, and are forgotten afterwards, as are plugins in files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        before = set(sys.modules)
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None)
                if file is not None and not any(Path(file).is_relative_to(folder) for folder in _LIBRARIES):
                    del sys.modules[name]


_LIBRARIES = [Path(folder).resolve() for folder in sys.path if folder]


_READ_LATE = {"PYTHONPATH", "COLUMNS", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""Variables that a process need not have when it starts; Python and libraries read others then."""


def sparsecore_process(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``sparsecore`` with these arguments in a process of its own."""
    command = ["-m", "sparsecore", *map(str, arguments)]
    if can_fork(command) and set(environment) <= _READ_LATE:
        ((status, out, err),) = fork(command, [{**os.environ, **environment}], cwd)
        return subprocess.CompletedProcess(command, status, out, err)
    return subprocess.run(
        [sys.executable, *command],
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
