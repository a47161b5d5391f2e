"""A run folder as one frozen value."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.report.records import read_lines, read_record, read_text, read_toml


@attrs.frozen
class Tensor:
    """A sparse tensor at the start: its name, dense shape and number of active weights."""

    name: str
    shape: tuple[int, ...]
    active: int

    @property
    def size(self) -> int:
        """Its number of positions."""
        return math.prod(self.shape)


@attrs.frozen
class Epoch:
    """What was measured when ``epoch`` epochs, ``step`` optimizer steps, were done; losses in nats an example."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


@attrs.frozen
class Update:
    """One reallocation, after ``step`` optimizer steps.

    Attributes:
        update: its number, from 1.
        step: optimizer steps done before it.
        threshold: the pruning threshold H, None for strategies without one.
        pruned: weights pruned, by tensor; a tensor that lost none may be missing.
        grown: weights grown, by tensor; a tensor that gained none may be missing.
        active: active weights after the update, by tensor; all sparse tensors.
    """

    update: int
    step: int
    pruned: Mapping[str, int]
    grown: Mapping[str, int]
    active: Mapping[str, int]
    threshold: float | None = None


@attrs.frozen
class Result:
    """What a finished run came to; None where the run did not say."""

    test_accuracy: float | None = None
    test_loss: float | None = None
    sparse_parameters: int | None = None
    dense_parameters: int | None = None
    sparsity: float | None = None
    reallocations: int | None = None
    topology_sha256: str | None = None


@attrs.frozen
class Run:
    """All that a report shows.

    Attributes:
        experiment: the tables of experiment.toml.
        experiment_text: experiment.toml as it stands.
        tensors: the sparse tensors at the start, in network order.
        epochs: one a finished epoch.
        updates: one a reallocation.
        result: None while the run is unfinished.
    """

    experiment: Mapping[str, Any]
    experiment_text: str
    tensors: tuple[Tensor, ...]
    epochs: tuple[Epoch, ...]
    updates: tuple[Update, ...]
    result: Result | None

    @cached_property
    def active(self) -> tuple[int, ...]:
        """Active weights now, in the order of ``tensors``."""
        if not self.updates:
            return tuple(tensor.active for tensor in self.tensors)
        return tuple(self.updates[-1].active[tensor.name] for tensor in self.tensors)

    @property
    def last_step(self) -> int:
        """The last optimizer step that the files know of."""
        return max([0, *(line.step for line in self.epochs[-1:]), *(line.step for line in self.updates[-1:])])


@attrs.frozen
class _Start:
    tensors: tuple[Tensor, ...]


def read_run(folder: Path) -> Run:
    """The run in this folder; an :class:`InputError` if there is none or a file of it is damaged."""
    for name in ("experiment.toml", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not the folder of a run: it has no {name}")
    reallocations, result = folder / "reallocations.jsonl", folder / "result.json"
    run = Run(
        experiment=read_toml(folder / "experiment.toml"),
        experiment_text=read_text(folder / "experiment.toml"),
        tensors=read_record(folder / "tensors.json", _Start).tensors,
        epochs=read_lines(folder / "metrics.jsonl", Epoch),
        updates=read_lines(reallocations, Update) if reallocations.exists() else (),
        result=read_record(result, Result) if result.exists() else None,
    )
    _require_same_tensors(run, reallocations)
    return run


def _require_same_tensors(run: Run, reallocations: Path) -> None:
    names = {tensor.name for tensor in run.tensors}
    for line, update in enumerate(run.updates, 1):
        if odd := names ^ set(update.active):
            raise InputError(
                f"{reallocations}, line {line}: 'active' and tensors.json must name the same tensors; "
                f"only one of them has {', '.join(sorted(odd))}"
            )
        if odd := (set(update.pruned) | set(update.grown)) - names:
            raise InputError(f"{reallocations}, line {line}: tensors.json has no {', '.join(sorted(odd))}")
