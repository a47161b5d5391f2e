"""The lines of a run's logs, and the positions in them."""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Counts
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.learning.protocols import Totals

_WIDTH = 8
"""Bytes of a position in a log."""


@attrs.frozen
class Metrics:
    """How an epoch ended: losses in nats, accuracies in 0..1."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


def epoch_metrics(clock: Clock, learning_rate: float, train: Totals, test: Totals) -> Metrics:
    """The line of the epoch that has just ended."""
    return Metrics(
        epoch=clock.epoch,
        step=clock.step,
        learning_rate=learning_rate,
        train_loss=train.loss / train.examples,
        train_accuracy=train.correct / train.examples,
        test_loss=test.loss / test.examples,
        test_accuracy=test.correct / test.examples,
    )


def reallocation_line(reallocation: Reallocation, clock: Clock, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The line of an update.

    Args:
        reallocation: what was done.
        clock: the time after it.
        metrics: those that the strategies reported before it, by the names of strategy and metric.
    """
    names = reallocation.before.layout.names
    to_numpy = reallocation.before.arrays.to_numpy
    return {
        "update": clock.updates,
        "step": clock.step,
        "metrics": dict(metrics),
        "moved": reallocation.pruned_count,
        "pruned": _by_name(names, reallocation.pruned),
        "grown": _by_name(names, reallocation.grown),
        "pruned_positions": encode_positions(to_numpy(reallocation.pruned_positions)),
        "grown_positions": encode_positions(to_numpy(reallocation.grown_positions)),
    }


def encode_positions(positions: NDArray[np.integer[Any]]) -> str:
    """Ascending positions as text: differences as little-endian int64, deflated, in base 64."""
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
