"""A log of metrics that TensorBoard shows."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.extras import require
from sparsecore.observers.metric_log import MetricLog, absolute
from sparsecore.observers.observer import ObservationStart


@attrs.define(eq=False, slots=False)
class TensorBoardLog(MetricLog):
    """Event files of TensorBoard, which it shows with ``tensorboard --logdir FOLDER``.

    A training that goes on writes another file into the folder, which makes TensorBoard drop what earlier files have of
    steps after the checkpoint's.

    Attributes:
        folder: of the files; empty for tensorboard in the folder of a run.
    """

    folder: str = attrs.field(default="", converter=absolute)
    _writer: Any = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require("tensorboard", extra="tensorboard", purpose="a log for TensorBoard")

    def open(self, start: ObservationStart) -> None:
        """Open a new event file.

        Raises:
            InputError: there is no folder.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.ended()
        self._writer = EventFileWriter(str(Path(self.folder) if self.folder else _in_run(start)))
        if start.is_resumed:  # what the files before this one have from this step on is to be forgotten
            session = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(step=start.clock.step + 1, wall_time=time.time(), session_log=session))
            self._writer.flush()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write an event with all metrics."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is not None:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in self.prefixed(metrics).items()]
            self._writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))
            self._writer.flush()

    def ended(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _in_run(start: ObservationStart) -> Path:
    if start.folder is None:
        raise InputError("a log for TensorBoard needs a folder, such as TensorBoardLog('logs/first')")
    return start.folder / "tensorboard"
