"""Reading the folder of a run, and checking that its files belong together."""

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from sparsecore.errors import InputError, InputWarning
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.experiment.toml_files import read_toml
from sparsecore.formats import RUN
from sparsecore.notebook.html import TensorCounts, UpdateTotals, block, note, tensor_table, update_chart, value_table
from sparsecore.run.checkpoint import Checkpoint, facts_in, logs_of
from sparsecore.run.files import digest_of
from sparsecore.run.folder import LOTTERY_FILE, RunFolder
from sparsecore.run.initialization import WarmStart
from sparsecore.run.logs import (
    Effort,
    Metrics,
    Result,
    StartTensor,
    StartTensors,
    Update,
    read_lines,
    read_record,
    read_text,
)


@attrs.frozen
class UpdateCounts:
    """The numbers of one update.

    Attributes:
        update: number of the update, from 1.
        step: number of optimizer steps before it.
        metrics: metrics that the strategies reported before it, by "strategy.metric".
        pruned: number of weights pruned, by tensor; a tensor that lost none is missing.
        grown: number of weights grown, by tensor; a tensor that gained none is missing.
        active: number of active weights after the update, by tensor, for all sparse tensors.
    """

    update: int
    step: int
    metrics: Mapping[str, float]
    pruned: Mapping[str, int]
    grown: Mapping[str, int]
    active: Mapping[str, int]


@attrs.frozen
class RunRecord:
    """The contents of a run folder that its report shows.

    Attributes:
        experiment: tables of experiment.toml.
        experiment_text: text of experiment.toml.
        tensors: sparse tensors at the start, in network order.
        epochs: metrics of each finished epoch.
        updates: numbers of each update.
        result: result of the run; None if it has not finished.
        effort: time and memory that it has taken so far.
    """

    experiment: Mapping[str, Any]
    experiment_text: str
    tensors: tuple[StartTensor, ...]
    epochs: tuple[Metrics, ...]
    updates: tuple[UpdateCounts, ...]
    result: Result | None
    effort: Effort = Effort()

    @cached_property
    def active(self) -> tuple[int, ...]:
        """The numbers of active weights after the last update, in the order of ``tensors``."""
        if not self.updates:
            return tuple(tensor.active for tensor in self.tensors)
        return tuple(self.updates[-1].active[tensor.name] for tensor in self.tensors)

    def _repr_html_(self) -> str:
        """Return what notebooks show: the result or the progress, the tensors and their densities, and the updates."""
        tensors = [
            TensorCounts(one.name, one.shape, one.size, one.active, now)
            for one, now in zip(self.tensors, self.active, strict=True)
        ]
        totals = [UpdateTotals(one.step, sum(one.pruned.values()), sum(one.grown.values())) for one in self.updates]
        last = self.epochs[-1:]
        return block(
            "Run of sparsecore",
            self.result._repr_html_() if self.result is not None else note("This run has not finished."),
            *(value_table({f"epoch {one.epoch}: test accuracy": f"{one.test_accuracy:.2%}"}) for one in last),
            tensor_table(tensors),
            update_chart(totals),
        )

    @property
    def last_step(self) -> int:
        """The last optimizer step in the logs."""
        return max([0, *(line.step for line in self.epochs[-1:]), *(line.step for line in self.updates[-1:])])


def read_run(folder: Path) -> RunRecord:
    """Read the run in a folder.

    Raises:
        InputError: the folder has no run, or a file is damaged or does not belong to the others.
    """
    files = RunFolder(folder)
    if (folder / LOTTERY_FILE).is_file():
        raise InputError(f"{folder} is the folder of a lottery; give one of its runs, such as {folder / 'round-0'}")
    for path in (files.experiment, files.metrics):
        if not path.is_file():
            raise InputError(f"{folder} is not the folder of a run: it has no {path.name}")
    tensors = read_record(files.tensors, StartTensors).tensors
    # before the logs: a run that finishes while they are read has not finished in the report
    result = read_record(files.result, Result) if files.result.exists() else None
    run = RunRecord(
        experiment=RUN.take(read_toml(files.experiment), f"the run {folder}"),
        experiment_text=read_text(files.experiment),
        tensors=tensors,
        epochs=read_lines(files.metrics, Metrics),
        updates=tuple(_updates(tensors, files.reallocations)) if files.reallocations.exists() else (),
        result=result,
        effort=_effort(files.seconds),
    )
    if run.result is not None and run.result.epochs is not None:
        _check_whole(files.metrics, len(run.epochs), run.result.epochs - _epochs_before(files))
        _check_whole(files.reallocations, len(run.updates), run.result.reallocations)
    known = facts_in(files.checkpoint)
    _check_experiment(run, files, known.get("experiment"))
    _check_logs(files, known)
    if run.result is not None and run.result.experiment_sha256 is not None:
        _check_numbers(run, run.result, files)
    return run


def _epochs_before(files: RunFolder) -> int:
    """Return how many epochs the values that a run starts with were trained before; they are not in its log."""
    return WarmStart.read(files.start).values.epoch if files.start.exists() else 0


def _effort(path: Path) -> Effort:
    """Read the effort of a run; empty if the file is missing, and with a warning if it is damaged."""
    if not path.exists():
        return Effort()
    try:
        return read_record(path, Effort)
    except InputError as error:
        if isinstance(error.__cause__, OSError):  # the system fails, the file is not damaged
            raise
        warnings.warn(InputWarning(f"{error}; the report has neither duration nor machine"), stacklevel=2)
        return Effort()


def _check_logs(files: RunFolder, known: Mapping[str, Any]) -> None:
    """Raise an error if the part of a log that was written before the checkpoint has changed.

    Args:
        files: folder of the run.
        known: facts of the checkpoint.
    """
    try:
        logs = logs_of(Checkpoint(known, {}))
    except InputError:  # no checkpoint, or a damaged one, which the report does not need
        return
    for path, log in ((files.metrics, logs["metrics"]), (files.reallocations, logs["reallocations"])):
        content = path.read_bytes()[: log.bytes] if path.exists() else b""
        if digest_of(content) != log.blake2b:
            raise InputError(f"{path} is damaged: a line of it has changed since it was written")


def _check_experiment(run: RunRecord, files: RunFolder, trained: Any) -> None:
    """Raise an error if experiment.toml has changed, according to the fingerprint in the result or the checkpoint.

    Args:
        run: the run.
        files: folder of the run.
        trained: fingerprint in the checkpoint; None if it has none.
    """
    if not any(isinstance(table, Mapping) for table in run.experiment.values()):
        raise InputError(f"{files.experiment} is damaged: it has no settings of an experiment")
    if run.result is not None:
        trained = run.result.experiment_sha256
    if trained is None:
        return
    tables = {name: table for name, table in run.experiment.items() if name != "presets"}
    try:
        is_same = experiment_fingerprint(tables) == trained
    except (TypeError, AttributeError):  # values that no experiment has, such as dates
        is_same = False
    if not is_same:
        raise InputError(f"{files.experiment} is damaged: the run {files.path} was trained with other settings")


def _check_numbers(run: RunRecord, result: Result, files: RunFolder) -> None:
    """Raise an error if the result of a finished run differs from the end of its logs."""
    last = run.epochs[-1]
    expected = {
        "test_accuracy": last.test_accuracy,
        "test_loss": last.test_loss,
        "sparse_parameters": sum(run.active),
    }
    for name, value in expected.items():
        if getattr(result, name) != value:
            raise InputError(
                f"{files.result} is damaged: it has {name} = {getattr(result, name)}, but the run's logs end with "
                f"{value}"
            )


def _check_whole(log: Path, lines: int, expected: int | None) -> None:
    """Raise an error if the log of a finished run has lost lines or has lines of another run."""
    if expected is not None and lines != expected:
        raise InputError(f"{log} is damaged: it has {lines} whole lines, but according to result.json {expected}")


def _updates(tensors: tuple[StartTensor, ...], path: Path) -> Iterator[UpdateCounts]:
    """Yield the updates of a log, each with the active weights of every tensor after it."""
    active = {tensor.name: tensor.active for tensor in tensors}
    for line, update in enumerate(read_lines(path, Update), 1):
        if unknown_tensors := (set(update.pruned) | set(update.grown)) - set(active):
            raise InputError(f"{path}, line {line}: tensors.json has no {', '.join(sorted(unknown_tensors))}")
        active = {name: active[name] - update.pruned.get(name, 0) + update.grown.get(name, 0) for name in active}
        yield UpdateCounts(update.update, update.step, update.metrics, update.pruned, update.grown, active)
