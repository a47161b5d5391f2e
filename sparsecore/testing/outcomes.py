"""What becomes of scenes, for another process to compare: scenes on standard input, digests on standard output."""

import hashlib
import importlib.util
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsecore.testing.runs import contents, engine, updated
from sparsecore.testing.scenes import Scene


def outcome(scene: Scene) -> dict[str, str]:
    """Digests of a start and of an update, by what they are of."""
    start = engine(scene).start(scene.sparsity, clock=scene.clock)
    update = updated(scene)
    told = {
        "the start": start.topology.host_positions.tolist(),
        "positions": update.state.topology.host_positions.tolist(),
        "values": np.asarray(update.reallocation.values).tolist(),
        "the strategy state": sorted(contents(update.state).items()),
    }
    return {what: hashlib.sha256(repr(content).encode()).hexdigest() for what, content in told.items()}


def _answer(files: Mapping[str, str | None], scene: bytes) -> dict[str, str] | None:
    try:
        for name, file in files.items():
            _provide(name, file)
        return outcome(pickle.loads(scene))
    except Exception:  # whatever it is, another promise tells of it
        return None


def _provide(name: str, file: str | None) -> None:
    """Load a module that cannot be found by its name, from the file that it had elsewhere."""
    known: Any = sys.modules.get(name)
    if file is None or getattr(known, "__file__", None) == file:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python source", name=name, path=file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _serve() -> None:
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a strategy prints is no answer
    while True:
        try:
            files, scene = pickle.load(asked)
        except EOFError:
            return
        pickle.dump(_answer(files, scene), answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
