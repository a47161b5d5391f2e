"""Other Python processes, which hash texts in other ways, and what a strategy decides there."""

import atexit
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import IO, cast

from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import Stack

_HASH_SEEDS = ("1", "2")


class Process:
    """A Python process that is asked for the outcome of one scene after another."""

    def __init__(self, hash_seed: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sparsecore.testing.outcomes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        # both are pipes, as asked for
        self._stdin, self._stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        atexit.register(self.close)

    def ask(self, told: bytes) -> None:
        """Begin with this."""
        self._stdin.write(told)
        self._stdin.flush()

    def answer(self) -> Mapping[str, str] | None:
        """Digests of what came of it by what they are of; None where it was refused."""
        answer: Mapping[str, str] | None = pickle.load(self._stdout)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@cache
def processes() -> tuple[Process, ...]:
    """One for each way to hash; they are started once, and end with this process."""
    return tuple(map(Process, _HASH_SEEDS))


def can_be_told(stack: Stack) -> bool:
    """Whether another process can have these strategies: they can be pickled, and are of modules that it can load."""
    try:
        pickle.dumps(stack)
    except Exception:  # classes within functions, open files and whatever else cannot be written down
        return False
    return "__main__" not in _files(stack)


def outcomes(scene: Scene) -> list[Mapping[str, str] | None]:
    """The outcome of the scene in each process."""
    told = pickle.dumps((_files(scene.stack), pickle.dumps(scene)))
    for process in processes():
        process.ask(told)
    return [process.answer() for process in processes()]


def _files(stack: Stack) -> dict[str, str | None]:
    """The files of the strategies' modules, by the modules' names."""
    names = {type(plugin).__module__ for plugin in stack.values()}
    return {name: getattr(sys.modules[name], "__file__", None) for name in sorted(names)}
