"""The base class of observers that write metrics by step and name, as experiment trackers keep them."""

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import attrs

from sparsecore.observers.observer import ObservationStart, ObservedUpdate, Observer


def absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path, since the working directory may change before a log is opened or continued.

    Args:
        path: of a file or a folder; an empty one stays empty.
    """
    return str(Path(path).absolute()) if os.fspath(path) else ""


@attrs.define(eq=False, slots=False)
class MetricLog(Observer):
    """An observer that writes the metrics of start, updates and epochs to a log.

    Attributes:
        prefix: what precedes the names of all metrics, such as 'sparse/' in a log that others write to as well.
        itop: whether ``itop_rate`` is written, for which a bit a position is kept.
    """

    prefix: str = attrs.field(default="", kw_only=True)
    itop: bool = attrs.field(default=False, kw_only=True)

    @abstractmethod
    def open(self, start: ObservationStart) -> None:
        """Open the log, or continue it where the training goes on from a checkpoint.

        Args:
            start: the state that the training begins with or goes on from.
        """

    @abstractmethod
    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics.

        Args:
            step: the number of finished optimizer steps.
            metrics: by name, without the prefix.
        """

    def started(self, start: ObservationStart) -> None:
        """Open the log, and write the metrics of the topology where a training begins."""
        self.open(start)
        if not start.is_resumed:
            self.write(start.clock.step, start.metrics)

    def reallocated(self, update: ObservedUpdate) -> None:
        """Write the metrics of an update."""
        self.write(update.clock.step, update.metrics)

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch."""
        self.write(step, metrics)

    def prefixed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics with the prefix in front of their names.

        Args:
            metrics: by name, without it.
        """
        return {f"{self.prefix}{name}": value for name, value in metrics.items()}
