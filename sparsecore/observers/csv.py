"""A log of metrics in a CSV file."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from sparsecore.errors import InputError
from sparsecore.observers.metric_log import MetricLog, absolute
from sparsecore.observers.observer import ObservationStart

_HEAD = ("step", "metric", "value")


@attrs.define(eq=False, slots=False)
class CsvLog(MetricLog):
    """A CSV file with the columns step, metric and value, a line for each value.

    A training that begins replaces the file. One that goes on keeps the lines up to the checkpoint's step, and removes
    those of steps that are taken again.

    Attributes:
        path: of the file; empty for log.csv in the folder of a run.
    """

    path: str = attrs.field(default="", converter=absolute)
    _file: Path | None = attrs.field(default=None, init=False, repr=False)

    def open(self, start: ObservationStart) -> None:
        """Write the head of the file, or remove the lines of later steps.

        Raises:
            InputError: there is no path, or the file that is to be continued is no such log.
        """
        path = Path(self.path) if self.path else _in_run(start)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _lines_until(path, start.clock.step) if start.is_resumed and path.exists() else [_HEAD]
        whole = path.with_name(f"{path.name}.part")  # so that an interrupt here loses no line
        _write(whole, "w", kept)
        whole.replace(path)
        self._file = path

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a line for each metric."""
        if self._file is not None:
            values = self.prefixed(metrics).items()
            _write(self._file, "a", [(step, name, repr(float(number))) for name, number in values])


def _write(path: Path, mode: Literal["w", "a"], rows: Iterable[Sequence[object]]) -> None:
    # opened each time, since a training in a notebook or a script may never end
    with path.open(mode, encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _in_run(start: ObservationStart) -> Path:
    if start.folder is None:
        raise InputError("a CSV log needs the path of its file, such as CsvLog('log.csv')")
    return start.folder / "log.csv"


def _lines_until(path: Path, step: int) -> list[list[str]]:
    """Return the head of a log and its whole lines up to a step."""
    content = path.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(content[: content.rfind("\n") + 1], newline="")))
    is_whole = all(len(row) == len(_HEAD) and row[0].isdecimal() for row in rows[1:])
    if not rows or tuple(rows[0]) != _HEAD or not is_whole:
        raise InputError(f"{path} is no log that can be continued: expected the columns {', '.join(_HEAD)}")
    return [rows[0], *(row for row in rows[1:] if int(row[0]) <= step)]
