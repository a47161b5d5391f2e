"""What a run that starts from another one begins with, by plain NumPy on the files; and runs without a process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sparsecore.cli.command_line import commands

Arrays = dict[str, np.ndarray[Any, Any]]

STILL = ("--epochs", "1", "--set", "training.learning_rate=0")
"""A run that ends with the weights it began with (but for running statistics)."""


def carry_out(*arguments: str | Path) -> None:
    """A command of ``sparsecore`` within this process; its errors are raised."""
    commands([str(argument) for argument in arguments], standalone_mode=False)


def end(run: Path) -> Arrays:
    """The last state of a run."""
    return load_file(run / "checkpoint.safetensors")


def dense(arrays: Arrays) -> Arrays:
    """The parameters that are not sparse, by name."""
    return {name.removeprefix("dense/"): array for name, array in arrays.items() if name.startswith("dense/")}


def trained(arrays: Arrays) -> Arrays:
    """The parameters that are not sparse and learn, by name."""
    return {name: array for name, array in dense(arrays).items() if not name.endswith((".mean", ".variance"))}


def same(one: Arrays, other: Arrays) -> bool:
    """Whether they have the same arrays."""
    return bool(one) and one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def result(run: Path) -> dict[str, Any]:
    """What the run came to."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of its epochs."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensor_of(run: Path, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The number of the tensor that each position lies in."""
    tensors = json.loads((run / "tensors.json").read_text())["tensors"]
    ends = np.cumsum([np.prod(tensor["shape"]) for tensor in tensors])
    return np.searchsorted(ends, positions, side="right")


def survivors(run: Path, count: int) -> np.ndarray[Any, Any]:
    """The positions that are left when the ``count`` smallest |w| of the whole network go, one by one.

    A weight that is the last of its tensor stays; the others of the tensor are smaller and gone by then.
    """
    state = end(run)
    sizes = np.abs(state["learner/values"])
    tensors = tensor_of(run, state["positions"])
    left = np.bincount(tensors)
    gone: set[int] = set()
    for slot in np.lexsort((state["positions"], sizes)).tolist():
        if len(gone) < count and left[tensors[slot]] > 1:
            left[tensors[slot]] -= 1
            gone.add(slot)
    return np.delete(state["positions"], sorted(gone))


def at(arrays: Arrays, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values of a state at these positions, which it must have."""
    there = dict(zip(arrays["positions"].tolist(), arrays["learner/values"], strict=True))
    return np.array([there[position] for position in positions.tolist()])
