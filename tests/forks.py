"""Python processes that have imported PyTorch and sparsecore before they begin.

Most of the time of a process of the tests is the import of its libraries. So one process imports them and, for every
process that a test asks for, forks: what runs has a process, an environment, files and an exit status of its own.

    python forks.py        # the server: it reads requests, a line of JSON each, and answers when their processes end
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

_IMPORTED = (
    "torch",
    "pytest",
    "safetensors.numpy",
    "sparsecore.cli.command_line",
    "sparsecore.report.page",
    "sparsecore_torch",
)
_SECONDS = 300.0
_SERVERS = 2
"""Processes that run at the same time come from several, as Python draws the order of sets once an interpreter."""


def can_fork(arguments: Sequence[str]) -> bool:
    """Whether a Python with these arguments can be had by a fork: it runs a module or a text, without other options."""
    return sys.platform == "linux" and arguments[0] in ("-m", "-c")


def fork(
    arguments: Sequence[str], environments: Sequence[Mapping[str, str]], cwd: Path | None = None
) -> list[tuple[int, str, str]]:
    """Run Python with these arguments, once in each environment, all at the same time.

    Args:
        arguments: ``-m MODULE ...`` or ``-c TEXT ...``.
        environments: all variables of each process.
        cwd: the working directory of all of them; that of the tests, if None.

    Returns:
        Exit status, standard output and standard error of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [
            [str(Path(folder) / f"{index}.{name}") for name in ("out", "err")] for index in range(len(environments))
        ]
        shared = {"arguments": list(arguments), "cwd": str(cwd or Path.cwd())}
        asked = []
        for index in range(min(_SERVERS, len(environments))):
            own = slice(index, None, _SERVERS)
            request = {"environments": [dict(each) for each in environments[own]], "outputs": outputs[own], **shared}
            stdin = cast(IO[str], _server(index).stdin)
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            asked.append(own)
        statuses = [0] * len(environments)
        for index, own in enumerate(asked):
            answer = cast(IO[str], _server(index).stdout).readline()
            if not answer:
                raise RuntimeError("the process that forks has ended")
            statuses[own] = json.loads(answer)
        texts = [[Path(file).read_text("utf-8", errors="replace") for file in files] for files in outputs]
        return [(status, *said) for status, said in zip(statuses, texts, strict=True)]


@cache
def _server(_: int) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__))]
    # it ends when this process does, since its standard input is closed then
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _serve() -> None:
    sys.path[0] = ""  # as of ``python -m`` and ``python -c``
    for name in _IMPORTED:
        with suppress(ImportError):  # the tests that need it are skipped without it
            importlib.import_module(name)
    # what is imported lives as long as a process: no collection in one of them walks, and so copies, all of it
    gc.collect()
    gc.freeze()
    known = list(sys.path)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        processes = []
        for environment, outputs in zip(request["environments"], request["outputs"], strict=True):
            process = os.fork()
            if not process:
                replies.close()
                _become(request["arguments"], environment, request["cwd"], outputs, known)
                return
            processes.append(process)
        print(json.dumps(_statuses(processes)), file=replies, flush=True)


def _statuses(processes: Sequence[int]) -> list[int]:
    """The exit statuses of the processes, which are killed when their time is up; those of signals are negative."""
    ended: dict[int, int] = {}
    latest = time.monotonic() + _SECONDS
    while len(ended) < len(processes):
        for process in set(processes) - set(ended):
            if time.monotonic() > latest:
                os.kill(process, signal.SIGKILL)
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                ended[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [ended[process] for process in processes]


def _become(arguments: list[str], environment: dict[str, str], cwd: str, outputs: list[str], known: list[str]) -> None:
    """Be a Python that was started with these arguments."""
    for descriptor, file in zip((1, 2), outputs, strict=True):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    given = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = ["", *given, *(folder for folder in known if folder not in ("", *given))]
    warnings.resetwarnings()
    if environment.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    else:
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
    if "triton" in sys.modules:  # newer ones print at the exit what no collection can find
        atexit.register(gc.unfreeze)
    how, what, *rest = arguments
    sys.argv[:] = [what if how == "-m" else "-c", *rest]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        own: dict[str, Any] = {"__name__": "__main__"}
        exec(what, own)


if __name__ == "__main__":
    _serve()
