"""The schemas of the files that a run writes besides its checkpoints, and reading and writing them.

tensors.json holds :class:`StartTensors`, a line of metrics.jsonl :class:`Metrics`, a line of reallocations.jsonl
:class:`Update`, seconds.json :class:`Effort`, and result.json :class:`Result`.
"""

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Counts
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure
from sparsecore.formats import RUN
from sparsecore.learning.ledger import Bytes
from sparsecore.learning.protocols import Totals
from sparsecore.notebook.html import block, value_table
from sparsecore.run.files import check_regular

Record = TypeVar("Record")

_WIDTH = 8
"""Bytes of a position in a log."""


@attrs.frozen
class StartTensor:
    """A sparse tensor at the start.

    Attributes:
        name: its name in the model.
        shape: its dense shape.
        active: the number of its active weights.
    """

    name: str
    shape: tuple[int, ...]
    active: int

    @property
    def size(self) -> int:
        """Its number of positions."""
        return math.prod(self.shape)


@attrs.frozen
class StartTensors:
    """The sparse tensors of a run at its start.

    Attributes:
        tensors: in network order.
    """

    tensors: tuple[StartTensor, ...]

    @classmethod
    def of(cls, start: Topology) -> "StartTensors":
        """Return the sparse tensors of a topology.

        Args:
            start: the topology before the first step.
        """
        rows = zip(start.layout.names, start.layout.shapes, start.counts, strict=True)
        return cls(tuple(StartTensor(name, tuple(shape), int(count)) for name, shape, count in rows))


@attrs.frozen
class Metrics:
    """The metrics at the end of an epoch.

    Attributes:
        epoch: the number of finished epochs.
        step: the number of finished optimizer steps.
        learning_rate: of the epoch's last step.
        train_loss: mean over the epoch's augmented training images, while learning, in nats per image.
        train_accuracy: the share of them classified correctly, in 0..1.
        test_loss: mean over the test images after the epoch, in nats per image.
        test_accuracy: the share of them classified correctly, in 0..1.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


def epoch_metrics(clock: Clock, learning_rate: float, train: Totals, test: Totals) -> Metrics:
    """The metrics of the epoch that has just ended.

    Args:
        clock: the time after its last step.
        learning_rate: of its last step.
        train: the sums over the training images, while learning.
        test: the sums over the test images.
    """
    return Metrics(
        epoch=clock.epoch,
        step=clock.step,
        learning_rate=learning_rate,
        train_loss=train.loss / train.examples,
        train_accuracy=train.correct / train.examples,
        test_loss=test.loss / test.examples,
        test_accuracy=test.correct / test.examples,
    )


@attrs.frozen
class Update:
    """One update of the topology.

    Attributes:
        update: its number, from 1.
        step: the number of optimizer steps done before it.
        metrics: the metrics that the strategies reported before it, by "strategy.metric", such as "dpr.threshold".
        moved: K, the number of weights pruned.
        pruned: the number of weights pruned by tensor; a tensor that lost none is left out.
        grown: the number of weights grown by tensor; a tensor that gained none is left out.
        pruned_positions: the pruned positions, encoded by :func:`encode_positions`.
        grown_positions: the grown positions, likewise.
    """

    update: int
    step: int
    metrics: Mapping[str, float]
    moved: int
    pruned: Mapping[str, int]
    grown: Mapping[str, int]
    pruned_positions: str
    grown_positions: str


def update_line(reallocation: Reallocation, clock: Clock, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The line of an update in reallocations.jsonl.

    Args:
        reallocation: what was pruned and grown.
        clock: the time after it.
        metrics: the metrics that the strategies reported before it, by "strategy.metric".
    """
    names, to_numpy = reallocation.before.layout.names, reallocation.before.arrays.to_numpy
    return attrs.asdict(
        Update(
            update=clock.updates,
            step=clock.step,
            metrics=dict(metrics),
            moved=reallocation.pruned_count,
            pruned=_by_name(names, reallocation.pruned),
            grown=_by_name(names, reallocation.grown),
            pruned_positions=encode_positions(to_numpy(reallocation.pruned_positions)),
            grown_positions=encode_positions(to_numpy(reallocation.grown_positions)),
        )
    )


@attrs.frozen
class Effort:
    """The effort that a run has taken so far, over all sessions.

    Attributes:
        seconds: wall time.
        machine: a description of the machine and of versions.
        memory: bytes of the trained parameters by kind, as in :attr:`sparsecore.learning.ledger.Ledger.parts`.
    """

    seconds: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    machine: str = ""
    memory: Mapping[str, Bytes] = attrs.field(factory=dict)


@attrs.frozen
class RunFlops:
    """Floating-point operations of convolutions and linear layers.

    Attributes:
        inference: of one image's forward pass.
        inference_dense: of that of the dense network.
        training: of all steps, taken to have had full batches; None where it is not known what the first of them took,
            as in a run that was begun before operations were counted.
        training_dense: of as many steps of the dense network.
    """

    inference: int
    inference_dense: int
    training: int | None
    training_dense: int


@attrs.frozen(kw_only=True)
class Result:
    """The numbers of a finished run.

    Attributes:
        test_accuracy: share of test images classified correctly after the last epoch, 0..1.
        test_loss: mean cross-entropy over the test images, in nats.
        train_accuracy: the same over the last epoch's augmented training images, while learning.
        train_loss: likewise.
        sparse_parameters: N, the active weights of the sparse tensors.
        dense_parameters: trained parameters outside the sparse tensors.
        sparsity: 1 - N/D.
        reallocations: updates that were made.
        topology_sha256: fingerprint of layout and positions.
        epochs: passes over the training images; with those before the values that a rewound run starts with.
        steps: optimizer steps, likewise.
        memory: bytes of the trained parameters, sparse and dense, by what they are: values, indices, gradients,
            optimizer_state, and the total; activations are not among them.
        seconds: wall time of training, evaluation and checkpoints, over all goes.
        run: the run's folder.
        experiment_sha256: fingerprint of the experiment, as its checkpoint has it.
        flops: floating-point operations of an image's forward pass and of training; None where they are not known.
    """

    test_accuracy: float
    test_loss: float
    train_accuracy: float
    train_loss: float
    sparse_parameters: int
    dense_parameters: int
    sparsity: float
    reallocations: int
    topology_sha256: str
    epochs: int | None = None
    steps: int
    memory: Mapping[str, Bytes]
    seconds: float
    run: str
    experiment_sha256: str | None = None
    flops: RunFlops | None = None

    def _repr_html_(self) -> str:
        """Return what notebooks show: a table of the numbers."""
        numbers = {
            "test accuracy": f"{self.test_accuracy:.2%}",
            "test loss (nats)": f"{self.test_loss:.4f}",
            "train accuracy": f"{self.train_accuracy:.2%}",
            "train loss (nats)": f"{self.train_loss:.4f}",
            "sparsity": f"{self.sparsity:.4f}",
            "sparse parameters": f"{self.sparse_parameters:,}",
            "dense parameters": f"{self.dense_parameters:,}",
            "updates": f"{self.reallocations:,}",
            "steps": f"{self.steps:,}",
            "seconds": f"{self.seconds:,.1f}",
            "folder": self.run,
        }
        return block("Result of a run", value_table(numbers))


def read_text(path: Path) -> str:
    """The text of a regular file.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    return _decode(path, _read_bytes(path))


_CHECKSUM = "sha256"


def record_content(record: Any, indent: int | None = None) -> bytes:
    """The content of a file that holds one record: its format, its fields, and a checksum of these.

    Args:
        record: an attrs value of what JSON represents.
        indent: of the JSON; None to write it on one line.
    """
    fields = RUN.put(attrs.asdict(record))
    return json.dumps({**fields, _CHECKSUM: _checksum(fields)}, indent=indent).encode() + b"\n"


def _checksum(fields: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object without whitespace, by the order of its keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_record(path: Path, kind: type[Record]) -> Record:
    """The record in a file that holds one JSON object; keys that the schema does not have are ignored.

    A file of before there were checksums is read without one.

    Args:
        path: the file.
        kind: the schema, an attrs class.

    Raises:
        InputError: it cannot be read, is damaged, or is of a later version.
    """
    fields = _object(path, 1, read_text(path))
    known = fields.pop(_CHECKSUM, None)
    own = RUN.take(fields, str(path))
    if known is not None and known != _checksum(fields):
        raise InputError(f"{path} is damaged: its content does not match its checksum")
    return _structured(path, 1, own, kind)


def read_lines(path: Path, kind: type[Record]) -> tuple[Record, ...]:
    """The records in a file with one JSON object a line; keys that the schema does not have are ignored.

    Args:
        path: the file. What follows its last line end is ignored: a killed process may have left a part of a line.
        kind: the schema of a line, an attrs class.

    Raises:
        InputError: it cannot be read, or is damaged; the message names the line.
    """
    content = _read_bytes(path)
    # what follows the last newline was being written when the run was killed, and may end within a letter
    lines = _decode(path, content[: content.rfind(b"\n") + 1]).split("\n")[:-1]
    return tuple(_structured(path, number, _object(path, number, line), kind) for number, line in enumerate(lines, 1))


def _read_bytes(path: Path) -> bytes:
    check_regular(path, str(path))  # reading a pipe would wait
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


def _object(path: Path, line: int, text: str) -> dict[str, Any]:
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
    return fields


def _structured(path: Path, line: int, fields: dict[str, Any], kind: type[Record]) -> Record:
    try:
        return structure(fields, kind, "the record", lenient=True)
    except InputError as error:
        raise InputError(f"{path}, line {line}: {error}") from error


def encode_positions(positions: NDArray[np.integer[Any]]) -> str:
    """Write ascending positions as text: differences as little-endian int64, deflated, in base 64.

    Args:
        positions: (count,), on the host, of any integer dtype.

    Returns:
        ASCII, which is shorter the closer the positions are together; :func:`decode_positions` reads it.
    """
    differences = np.diff(positions.astype("<i8"), prepend=0)
    return base64.b64encode(zlib.compress(differences.tobytes(), 3)).decode("ascii")


def decode_positions(text: str, count: int, size: int) -> NDArray[np.int64]:
    """The positions that :func:`encode_positions` wrote.

    Args:
        text: what it wrote.
        count: how many there are; no more is unpacked, whatever the text says.
        size: positions of the layout.

    Raises:
        ValueError: they are not so many ascending positions of the layout.
    """
    if not 0 <= count <= size:
        raise ValueError(f"it counts {count} positions of {size}")
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(base64.b64decode(text, validate=True), _WIDTH * count + 1)
    except zlib.error as error:
        raise ValueError(f"its positions cannot be unpacked ({error})") from error
    if len(content) != _WIDTH * count or not unpacking.eof:
        raise ValueError(f"it does not have the {count} positions that it counts")
    differences = np.frombuffer(content, "<i8")
    positions = np.cumsum(differences, dtype=np.int64)
    if count and (
        differences[0] < 0 or (differences[1:] <= 0).any() or not (positions >= 0).all() or positions[-1] >= size
    ):
        raise ValueError(f"its positions are not ascending ones of 0 to {size - 1}")
    return positions


def _by_name(names: tuple[str, ...], counts: Counts) -> dict[str, int]:
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
