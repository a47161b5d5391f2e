"""Whatever the system refuses, and whenever, is one error sentence, and what was finished stays."""

import builtins
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, small_images
from in_process import run_in_process

pytestmark = pytest.mark.usefixtures("quick_runs")

SAME = ("checkpoint.safetensors", "metrics.jsonl", "reallocations.jsonl", "tensors.json", "experiment.toml")
OPERATIONS = ("open", "mkdir", "rename", "replace", "fsync", "truncate", "write")


class Failing:
    """Counts the operations on files below a folder, and lets one of them fail."""

    def __init__(self, below: Path, number: int, code: int) -> None:
        self._below, self._number, self._code = str(below), number, code
        self.count = 0

    def __call__(self, path: Any) -> None:
        if self._below not in os.fspath(path):
            return
        self.count += 1
        if self.count == self._number:
            raise OSError(self._code, os.strerror(self._code))


@contextmanager
def failing(below: Path, number: int, code: int) -> Iterator[Failing]:
    """Let the operation of this number fail, as it would with a full disk or too few file descriptors."""
    check = Failing(below, number, code)

    def checked(operation: Callable[..., Any]) -> Callable[..., Any]:
        def checking(path: Any, *more: Any, **named: Any) -> Any:
            if isinstance(path, str | bytes | os.PathLike):
                check(os.fsdecode(path))
            return operation(path, *more, **named)

        return checking

    def fsync(descriptor: int) -> None:
        check(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    def opened(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if not isinstance(file, int):
            check(os.fsdecode(file))
        stream = open_before(file, mode, *more, **named)
        if set(mode) & set("wa+") and not isinstance(file, int) and str(below) in os.fsdecode(file):
            return _Writing(stream, os.fsdecode(file), check)
        return stream

    open_before = io.open
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "replace"):
            patch.setattr(os, name, checked(getattr(os, name)))
        patch.setattr(os, "fsync", fsync)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        yield check


class _Writing:
    """A file whose writes are counted, too."""

    def __init__(self, stream: Any, name: str, check: Failing) -> None:
        self._stream, self._name, self._check = stream, name, check

    def write(self, content: Any) -> Any:
        self._check(self._name)
        return self._stream.write(content)

    def truncate(self, size: int) -> Any:
        self._check(self._name)
        return self._stream.truncate(size)

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_images(tmp_path_factory.mktemp("data") / "small.npz")


def arguments(images: Path, folder: Path) -> list[Any]:
    settings = ["--set", "strategy.schedule.steps=4", "--set", "backend.name=numpy", "--epochs", "2"]
    return ["train", *SMALL, "--data-dir", images, *settings, "--out", folder]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
def test_a_run_resumes_after_a_file_operation_fails_at_any_time(images: Path, tmp_path: Path, code: int) -> None:
    assert run_in_process(*arguments(images, tmp_path / "whole")).status == 0
    with failing(tmp_path / "counted", 0, code) as counted:
        assert run_in_process(*arguments(images, tmp_path / "counted/run")).status == 0
    assert counted.count > 40
    # every ninth, at other moments for each code: together they see each kind of operation fail
    for number in range(1 + code % 9, counted.count + 1, 9):
        place, folder = tmp_path / "place", tmp_path / "place/run"
        with failing(place, number, code):
            ended = run_in_process(*arguments(images, folder))
        assert os.strerror(code) in ended.sentence, number
        assert ended.status == 2 or code == errno.EIO
        assert not list(tmp_path.rglob("*.part"))
        again = run_in_process(*arguments(images, folder), "--resume", "--json")
        assert again.status == 0, (number, again.stderr)
        assert {name: (folder / name).read_bytes() for name in SAME} == {
            name: (tmp_path / "whole" / name).read_bytes() for name in SAME
        }, number
        shutil.rmtree(place)


def test_deleting_the_folder_of_a_run_raises_one_error_sentence(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsecore.run.recording import RunFolderWriter

    def deleted(*_: object) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    monkeypatch.setattr(RunFolderWriter, "epoch", deleted)
    ended = run_in_process(*arguments(images, tmp_path / "run"))
    assert ended.status == 2
    assert "No such file or directory" in ended.sentence
    assert str(tmp_path / "run") in ended.sentence


def test_an_unwritable_study_folder_raises_one_error_sentence(images: Path, tmp_path: Path) -> None:
    options = ["--model", "lenet-12-8", "--data", "npz", "--set", f"data.file={images}", "--epochs", "1"]
    command = ["study", "sparsities", *options, "--arm", "dpr", "--sparsity", "0.8", "--trials", "1"]
    for number in (1, 2, 5, 9):
        place = tmp_path / str(number)
        with failing(place, number, errno.ENOSPC):
            ended = run_in_process(*command, "--out", place / "study")
        assert ended.status == 2
        assert "No space left" in ended.sentence
        assert not place.exists() or not list(place.iterdir())


@pytest.mark.integration
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", [["plugins"], ["--help"], ["train", "--help"]], ids=" ".join)
def test_a_full_disk_behind_standard_output_raises_one_error_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sparsecore", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "sparsecore: No space left on device\n"


@pytest.mark.integration
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_result_that_cannot_be_printed_is_kept(images: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sparsecore", *map(str, arguments(images, tmp_path / "run")), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr
    assert json.loads((tmp_path / "run/result.json").read_text())["epochs"] == 2


@pytest.mark.integration
def test_a_closed_pipe_behind_standard_output_raises_one_error_sentence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sparsecore", "plugins"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 2
    assert done.stderr == "sparsecore: Broken pipe\n"


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_too_few_file_descriptors_raise_one_error_sentence(images: Path, tmp_path: Path) -> None:
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)); from sparsecore.cli import main; "
    words = [*map(str, arguments(images, tmp_path / "run"))]
    preloaded = (
        "import sparsecore.cli, sparsecore_numpy, sparsecore_strategies.dpr, sparsecore_models.lenet; "
        "import safetensors.numpy; "
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{preloaded}{code}sys.argv = ['sparsecore', *{words!r}]; main()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "Too many open files" in done.stderr


@pytest.mark.integration
def test_a_closed_standard_output_causes_no_traceback() -> None:
    closed = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m sparsecore plugins >&-'], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in closed.stderr
