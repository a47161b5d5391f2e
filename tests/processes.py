"""Several processes that are started together, as torchrun does, for tests of ranks."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from forks import can_fork, fork

from sparsecore.errors import InputError

_HERE = Path(__file__).parent
_CALL = "import json, sys; from {module} import {name}; print('ANSWER' + json.dumps({name}(*sys.argv[1:])))"


def sentence_of(attempt: Callable[[], Any]) -> str:
    """The sentence with which something is refused."""
    try:
        attempt()
    except InputError as error:
        return str(error)
    raise AssertionError("nothing was raised")


@attrs.frozen
class ProcessResult:
    """How a process or a command ended: its exit status and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def answer(self) -> Any:
        """What the function of :func:`call` returned, which must not have raised."""
        assert self.status == 0, self.stderr
        return json.loads(self.stdout.rpartition("ANSWER")[2])

    @property
    def sentence(self) -> str:
        """The one sentence of a command that has failed."""
        assert self.status in (1, 2), (self.status, self.stderr)
        assert self.stdout == ""
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr.strip()


def call(function: Callable[..., Any], *arguments: object, size: int = 2) -> list[ProcessResult]:
    """Call a function of a test module in processes of their own, which join one process group if they like."""
    return call_named(function.__module__, function.__name__, *arguments, size=size)


def call_named(module: str, name: str, *arguments: object, size: int = 1) -> list[ProcessResult]:
    """Call a function of a module that cannot be imported in the process of the tests."""
    return start(["-c", _CALL.format(module=module, name=name), *map(str, arguments)], size)


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what a function returns in a process of its own, which has what this one has imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        pool = multiprocessing.get_context("fork").Pool(1)
    with pool:
        return pool.apply(function, arguments)


def start(arguments: Sequence[str], size: int = 2) -> list[ProcessResult]:
    """Run Python with these arguments in several processes at once, by rank."""
    port = _free_port()
    environments = [_environment(rank, size, port) for rank in range(size)]
    if can_fork(arguments):
        forked = fork(arguments, environments)
        return [ProcessResult(status, _without_gloo(out), _without_gloo(errors)) for status, out, errors in forked]
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for environment in environments
    ]
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        ProcessResult(process.returncode, _without_gloo(out), _without_gloo(errors))
        for process, (out, errors) in zip(processes, said, strict=True)
    ]


def _without_gloo(text: str) -> str:
    """The text without the lines that gloo of old versions of PyTorch prints when ranks connect."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[Gloo]"))


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    warned = os.environ.get("PYTHONWARNINGS", "error")
    quick = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_HERE), "PYTHONWARNINGS": warned}
    return {**os.environ, **quick, **{name: str(number) for name, number in variables.items()}}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
