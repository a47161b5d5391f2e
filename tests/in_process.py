"""Runs the command line within the process of the tests, which is much faster than a new process."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ProcessResult

from sparsecore.cli.command_line import run


def run_in_process(*arguments: object) -> ProcessResult:
    """Run ``sparsecore`` with these arguments in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = run([*map(str, arguments)])
    return ProcessResult(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files are not flushed to the disk, which takes most of the time of runs that are this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
