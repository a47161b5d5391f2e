"""Worker processes that run scenarios, so that the decisions of strategies can be compared between processes.

Run as a program, this module is such a worker: it reads pickled scenarios from standard input and writes digests of
their results to standard output.
"""

import atexit
import hashlib
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import IO, Any, TypeAlias, cast

import numpy as np

from sparsecore.testing.runs import make_engine, run_update, strategy_state_contents
from sparsecore.testing.scenarios import Scenario
from sparsecore.testing.starts import start
from sparsecore.testing.subjects import Stack

Digests: TypeAlias = Mapping[str, str]
"""A digest of each part of a scenario's result, by the part's name."""

_HASH_SEEDS = ("1", "2")
"""PYTHONHASHSEED of each worker: Python's hashes of texts differ between them."""


def digests_in_workers(scenario: Scenario) -> list[Digests | None]:
    """Run a scenario in each worker process.

    Args:
        scenario: the scenario; its strategies must fulfil :func:`can_be_sent`.

    Returns:
        The digests of each worker; None where the scenario raised an error.
    """
    request = pickle.dumps((_files(scenario.stack), pickle.dumps(scenario)))
    for worker in _workers():
        worker.send(request)
    return [worker.receive() for worker in _workers()]


def can_be_sent(stack: Stack) -> bool:
    """Return whether a worker can load these strategies.

    Args:
        stack: the strategies by name.

    Returns:
        True if they can be pickled and none is of the module ``__main__``, which is another one in the worker.
    """
    try:
        pickle.dumps(stack)
    except Exception:  # a class within a function, an open file or anything else that cannot be pickled
        return False
    return "__main__" not in _files(stack)


class _Worker:
    """A worker process."""

    def __init__(self, hash_seed: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sparsecore.testing.worker_processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        # neither is None, because both are pipes
        self._stdin, self._stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        atexit.register(self._process.communicate)

    def send(self, request: bytes) -> None:
        self._stdin.write(request)
        self._stdin.flush()

    def receive(self) -> Digests | None:
        digests: Digests | None = pickle.load(self._stdout)
        return digests


@cache
def _workers() -> tuple[_Worker, ...]:
    """Start the workers once; they end with this process."""
    return tuple(map(_Worker, _HASH_SEEDS))


def _files(stack: Stack) -> dict[str, str | None]:
    """Return the files of the strategies' modules by the modules' names."""
    names = {type(plugin).__module__ for plugin in stack.values()}
    return {name: getattr(sys.modules[name], "__file__", None) for name in sorted(names)}


def _digests(scenario: Scenario) -> Digests:
    """Run a scenario's start and its update."""
    began = start(make_engine(scenario), scenario.sparsity, scenario.clock)
    update = run_update(scenario)
    results = {
        "the start": began.topology.host_positions.tolist(),
        "positions": update.state.topology.host_positions.tolist(),
        "values": np.asarray(update.reallocation.values).tolist(),
        "the strategy state": sorted(strategy_state_contents(update.state).items()),
    }
    return {part: hashlib.sha256(repr(content).encode()).hexdigest() for part, content in results.items()}


def _response(files: Mapping[str, str | None], pickled: bytes) -> Digests | None:
    try:
        for name, file in files.items():
            _ensure_module(name, file)
        return _digests(pickle.loads(pickled))
    except Exception:  # another promise reports errors
        return None


def _ensure_module(name: str, file: str | None) -> None:
    """Load a module from a file if it was not imported from there, for modules that cannot be found by their name."""
    loaded: Any = sys.modules.get(name)
    if file is None or getattr(loaded, "__file__", None) == file:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python source", name=name, path=file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _serve() -> None:
    requests, responses = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a strategy prints must not be read as a response
    while True:
        try:
            files, pickled = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(_response(files, pickled), responses)
        responses.flush()


if __name__ == "__main__":
    _serve()
