"""A run folder as one frozen value."""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs

from sparsecore.errors import InputError, InputWarning
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.experiment.toml_files import read_toml
from sparsecore.run.checkpoint import Checkpoint, facts_in, logs_of
from sparsecore.run.files import check_regular, digest_of
from sparsecore.run.folder import LOTTERY_FILE, RunFolder

Record = TypeVar("Record")

_LARGEST = 2**53
"""Whole numbers up to here are exact in floats, and can be drawn."""


def read_text(path: Path) -> str:
    """The file's text; an :class:`InputError` if it cannot be had."""
    return _decode(path, _read_bytes(path))


def read_record(path: Path, kind: type[Record]) -> Record:
    """The one JSON object that the file holds."""
    return _record(path, 1, read_text(path), kind)


def read_lines(path: Path, kind: type[Record]) -> tuple[Record, ...]:
    """The JSON objects of a file with one a line."""
    content = _read_bytes(path)
    # what follows the last newline was being written when the run was killed, and may end within a letter
    lines = _decode(path, content[: content.rfind(b"\n") + 1]).split("\n")[:-1]
    return tuple(_record(path, number, line, kind) for number, line in enumerate(lines, 1))


def _read_bytes(path: Path) -> bytes:
    check_regular(path, str(path))  # a pipe would be waited for
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: expected UTF-8 text") from error


def _record(path: Path, line: int, text: str, kind: type[Record]) -> Record:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise InputError(f"{path}, line {where}: not valid JSON, {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise InputError(f"{path}, line {line}: not valid JSON, nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{path}, line {line}: not valid JSON, {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}, line {line}: expected a JSON object, found {text[:40].strip()!r}")
    try:
        return _converter().structure(fields, kind)
    except cattrs.BaseValidationError as error:
        problems = cattrs.transform_error(error, path="the record", format_exception=_problem)
        raise InputError(f"{path}, line {line}: {'; '.join(problems)}") from error


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    # cattrs would call int() and str(), which turn 1.5 into 1 and [] into "[]"
    converter.register_structure_hook(int, lambda value, _: _exactly(value, "an integer", int))
    converter.register_structure_hook(float, lambda value, _: float(_exactly(value, "a number", int, float)))
    converter.register_structure_hook(str, lambda value, _: _exactly(value, "a string", str))
    return converter


def _exactly(value: Any, expected: str, *kinds: type) -> Any:
    if type(value) not in kinds:  # isinstance would take true for 1
        raise ValueError(f"expected {expected}, found {json.dumps(value)[:40]}")
    if type(value) is int and abs(value) > _LARGEST:
        raise ValueError(f"expected a number of at most {_LARGEST}, found one of {len(str(value))} digits")
    return value


def _problem(error: BaseException, _: type | None) -> str:
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)


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
    learning_rate: float | None = None


@attrs.frozen
class Update:
    """One reallocation, after ``step`` optimizer steps.

    Attributes:
        update: its number, from 1.
        step: optimizer steps done before it.
        metrics: what the strategies reported before it, by the names of strategy and metric.
        pruned: weights pruned, by tensor; a tensor that lost none may be missing.
        grown: weights grown, by tensor; a tensor that gained none may be missing.
        active: active weights after the update, by tensor; all sparse tensors. A line may leave it out, as it
            follows from the counts before; an update of a :class:`RunRecord` always has it.
    """

    update: int
    step: int
    pruned: Mapping[str, int]
    grown: Mapping[str, int]
    active: Mapping[str, int] = attrs.field(factory=dict)
    metrics: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen
class Result:
    """What a finished run came to, as :class:`sparsecore.run.result.Result` has it; None where it does not say."""

    test_accuracy: float
    test_loss: float
    sparse_parameters: int
    dense_parameters: int
    sparsity: float
    reallocations: int
    topology_sha256: str
    epochs: int | None = None
    experiment_sha256: str | None = None


@attrs.frozen
class Effort:
    """What a run has taken: seconds of wall time over all goes, and the machine, in words."""

    seconds: float = 0.0
    machine: str = ""


@attrs.frozen
class RunRecord:
    """All that a report shows.

    Attributes:
        experiment: the tables of experiment.toml.
        experiment_text: experiment.toml as it stands.
        tensors: the sparse tensors at the start, in network order.
        epochs: one a finished epoch.
        updates: one a reallocation.
        result: None while the run is unfinished.
        effort: what it has taken so far.
    """

    experiment: Mapping[str, Any]
    experiment_text: str
    tensors: tuple[Tensor, ...]
    epochs: tuple[Epoch, ...]
    updates: tuple[Update, ...]
    result: Result | None
    effort: Effort = Effort()

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


def read_run(folder: Path) -> RunRecord:
    """The run in this folder.

    Raises:
        InputError: there is none, a file of it is damaged, or its files do not belong together.
    """
    files = RunFolder(folder)
    if (folder / LOTTERY_FILE).is_file():
        raise InputError(f"{folder} is the folder of a lottery; give one of its runs, such as {folder / 'round-0'}")
    for path in (files.experiment, files.metrics):
        if not path.is_file():
            raise InputError(f"{folder} is not the folder of a run: it has no {path.name}")
    tensors = read_record(files.tensors, _Start).tensors
    run = RunRecord(
        experiment=read_toml(files.experiment),
        experiment_text=read_text(files.experiment),
        tensors=tensors,
        epochs=read_lines(files.metrics, Epoch),
        updates=tuple(_updates(tensors, files.reallocations)) if files.reallocations.exists() else (),
        result=read_record(files.result, Result) if files.result.exists() else None,
        effort=_effort(files.seconds),
    )
    if run.result is not None and run.result.epochs is not None:
        _check_whole(files.metrics, len(run.epochs), run.result.epochs)
        _check_whole(files.reallocations, len(run.updates), run.result.reallocations)
    known = facts_in(files.checkpoint)
    _check_experiment(run, files, known.get("experiment"))
    _check_logs(files, known)
    if run.result is not None and run.result.experiment_sha256 is not None:
        _check_numbers(run, run.result, files)
    return run


def _effort(path: Path) -> Effort:
    """What the run has taken; where the file is damaged, nothing, as if it were missing."""
    if not path.exists():
        return Effort()
    try:
        return read_record(path, Effort)
    except InputError as error:
        warnings.warn(InputWarning(f"{error}; the report has neither duration nor machine"), stacklevel=2)
        return Effort()


def _check_logs(files: RunFolder, known: Mapping[str, Any]) -> None:
    """Raise an error where a log does not begin as it was written when the checkpoint with these facts was."""
    try:
        logs = logs_of(Checkpoint(known, {}))
    except InputError:  # no checkpoint, or a damaged one, which the report does not need
        return
    for path, log in ((files.metrics, logs["metrics"]), (files.reallocations, logs["reallocations"])):
        content = path.read_bytes()[: log.bytes] if path.exists() else b""
        if digest_of(content) != log.blake2b:
            raise InputError(f"{path} is damaged: a line of it has changed since it was written")


def _check_experiment(run: RunRecord, files: RunFolder, trained: Any) -> None:
    """Raise an error where experiment.toml is not what was run, as far as result and checkpoint tell.

    Args:
        run: as it was read.
        files: of it.
        trained: the fingerprint of the experiment that the checkpoint tells, if it does.
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
    """Raise an error where the result of a finished run is not what its logs end with."""
    last = run.epochs[-1]
    expected = {
        "test_accuracy": last.test_accuracy,
        "test_loss": last.test_loss,
        "sparse_parameters": sum(run.active),
    }
    for name, value in expected.items():
        if getattr(result, name) != value:
            raise InputError(
                f"{files.result} is damaged: it says {name} = {getattr(result, name)}, where the run's logs end with "
                f"{value}"
            )


def _check_whole(log: Path, lines: int, expected: int | None) -> None:
    """Raise an error where the log of a finished run has lost lines, or has some of another run."""
    if expected is not None and lines != expected:
        raise InputError(f"{log} is damaged: it has {lines} whole lines, where result.json says {expected}")


def _updates(tensors: tuple[Tensor, ...], path: Path) -> Iterator[Update]:
    """The updates of the file, each with the active weights of every tensor after it."""
    active = {tensor.name: tensor.active for tensor in tensors}
    for line, update in enumerate(read_lines(path, Update), 1):
        if odd := (set(update.pruned) | set(update.grown) | set(update.active)) - set(active):
            raise InputError(f"{path}, line {line}: tensors.json has no {', '.join(sorted(odd))}")
        moved = {name: active[name] - update.pruned.get(name, 0) + update.grown.get(name, 0) for name in active}
        active = moved | dict(update.active)
        yield attrs.evolve(update, active=active)
