"""What a run leaves behind while it trains: the files of its folder; or nothing, on all ranks but the first."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from sparsecore.clock import Clock
from sparsecore.errors import InputError
from sparsecore.memory import Memories
from sparsecore.reallocation import Reallocation
from sparsecore.run.checkpoint import Checkpoint
from sparsecore.run.files import BusyError, LineLog, Lock, write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.records import Metrics, reallocation_line
from sparsecore.topology import Topology

_SECONDS_BETWEEN_CHECKPOINTS = 60.0

Take = Callable[[Mapping[str, Any]], Checkpoint]
"""Makes the checkpoint of this moment, with further facts in it."""


class Recorder(Protocol):
    """Who keeps what happens in a run."""

    def update(self, reallocation: Reallocation, clock: Clock, memories: Memories) -> None:
        """Weights were moved; ``memories`` are those before it."""
        ...

    def epoch(self, line: Metrics) -> None:
        """An epoch has ended."""
        ...

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the last checkpoint was long ago."""
        ...

    def save(self, take: Take, seconds: float) -> None:
        """The run can go on from here; it has taken so many seconds."""
        ...

    def keep(self, epoch: int, take: Take) -> None:
        """The state at the end of an epoch that was asked for; comes before :meth:`save`, which ends the epoch."""
        ...

    def close(self) -> None:
        """Nothing more will happen."""
        ...


class Forgetful:
    """Keeps nothing. See :class:`Recorder`."""

    wants_checkpoint = False

    def update(self, reallocation: Reallocation, clock: Clock, memories: Memories) -> None:
        """See :class:`Recorder`."""

    def epoch(self, line: Metrics) -> None:
        """See :class:`Recorder`."""

    def save(self, take: Take, seconds: float) -> None:
        """See :class:`Recorder`."""

    def keep(self, epoch: int, take: Take) -> None:
        """See :class:`Recorder`."""

    def close(self) -> None:
        """See :class:`Recorder`."""


class FolderRecorder:
    """Keeps all of it in a run's folder. See :class:`Recorder`."""

    def __init__(self, folder: RunFolder, lock: Lock, start: Topology, checkpoint: Checkpoint | None) -> None:
        """Cut the logs back to where the checkpoint knew them.

        Raises:
            InputError: a log is shorter than that.
        """
        self._folder, self._lock = folder, lock
        lengths = checkpoint.facts["logs"] if checkpoint else {"metrics": 0, "reallocations": 0}
        write_whole(folder.tensors, json.dumps(_tensors(start), indent=1).encode())
        try:
            self._metrics = LineLog(folder.metrics, lengths["metrics"])
            self._reallocations = LineLog(folder.reallocations, lengths["reallocations"])
        except (ValueError, OSError) as error:
            raise InputError(f"the run {folder.path} is damaged: {error}") from error
        self._saved = time.monotonic()

    def update(self, reallocation: Reallocation, clock: Clock, memories: Memories) -> None:
        """Write the update's line."""
        self._reallocations.append(reallocation_line(reallocation, clock, memories))

    def epoch(self, line: Metrics) -> None:
        """Write the epoch's line."""
        self._metrics.append(attrs.asdict(line))

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the last one is a minute old."""
        return time.monotonic() - self._saved > _SECONDS_BETWEEN_CHECKPOINTS

    def save(self, take: Take, seconds: float) -> None:
        """Write the checkpoint, which knows the lengths of the logs."""
        logs = {"metrics": self._metrics.sync(), "reallocations": self._reallocations.sync()}
        take({"logs": logs}).write(self._folder.checkpoint)
        write_whole(self._folder.seconds, json.dumps({"seconds": seconds}).encode())
        self._saved = time.monotonic()

    def keep(self, epoch: int, take: Take) -> None:
        """Write the state to a file of its own."""
        take({}).write(self._folder.kept(epoch))

    def close(self) -> None:
        """Close the logs and let others into the folder."""
        self._metrics.close()
        self._reallocations.close()
        self._lock.release()


def lock_of(folder: RunFolder) -> Lock:
    """The folder, for this process alone.

    Raises:
        InputError: another process is at work in it.
    """
    try:
        return Lock(folder.experiment)
    except BusyError:
        raise InputError(f"the run {folder.path} is being trained by another process") from None


def _tensors(start: Topology) -> dict[str, Any]:
    rows = zip(start.layout.names, start.layout.shapes, start.counts, strict=True)
    return {"tensors": [{"name": name, "shape": list(shape), "active": int(count)} for name, shape, count in rows]}
