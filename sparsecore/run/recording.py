"""Writers of a run: the first rank writes logs and checkpoints into the folder, all other ranks nothing."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any

import attrs

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.run.checkpoint import Checkpoint, logs_of
from sparsecore.run.checkpoint_validation import blaming, check_updates
from sparsecore.run.files import LineLog, Lock, LogState, remove_left_over, write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.logs import Effort, Metrics, StartTensors, record_content, update_line

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


MakeCheckpoint = Callable[[Mapping[str, Any]], Checkpoint]
"""Makes a checkpoint of the current state, with these further facts in it."""


class RunWriter:
    """Receives what happens in a run; this one writes nothing, which is what all ranks but the first do."""

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the last checkpoint was long ago."""
        return False

    def update(self, reallocation: Reallocation, clock: Clock, metrics: Mapping[str, float]) -> None:
        """Receive an update of the topology.

        Args:
            reallocation: what was pruned and grown.
            clock: the time after it.
            metrics: those that the strategies reported before it, by the names of strategy and metric.
        """

    def epoch(self, line: Metrics) -> None:
        """Receive the metrics of an epoch that has ended.

        Args:
            line: its number, losses in nats per image and accuracies in 0..1.
        """

    def save(self, make_checkpoint: MakeCheckpoint, effort: Effort) -> None:
        """Save a state that the run can be resumed from, and the effort that it has taken.

        Args:
            make_checkpoint: makes the checkpoint.
            effort: the effort up to this state.
        """

    def keep(self, epoch: int, make_checkpoint: MakeCheckpoint) -> None:
        """Keep the state at the end of an epoch that ``keep.epochs`` names; called before :meth:`save`.

        Args:
            epoch: the number of finished epochs.
            make_checkpoint: makes the checkpoint.
        """

    def close(self) -> None:
        """Close all files; nothing may be written afterwards."""


class RunFolderWriter(RunWriter):
    """Writes the logs and checkpoints of a run into its folder."""

    def __init__(self, folder: RunFolder, lock: Lock, start: Topology, checkpoint: Checkpoint | None) -> None:
        """Open the logs of a run, truncated to their lengths when the checkpoint was made.

        Args:
            folder: the run's folder.
            lock: the lock on it, which is released by :meth:`close`.
            start: the topology before the first step.
            checkpoint: the checkpoint that the run is resumed from; None for a run that begins.

        Raises:
            InputError: a log is shorter than that, has changed, or has more or fewer updates than the checkpoint.
            OSError: a file cannot be opened or written.
        """
        self._folder, self._lock = folder, lock
        for path in (folder.tensors, folder.checkpoint, folder.seconds):
            remove_left_over(path)
        write_whole(folder.tensors, record_content(StartTensors.of(start), indent=1))
        known: Mapping[str, LogState | None] = {"metrics": None, "reallocations": None}
        if checkpoint is not None:
            with blaming(checkpoint):
                known = logs_of(checkpoint)
        with ExitStack() as opened:
            try:
                self._metrics = opened.enter_context(closing(LineLog(folder.metrics, known["metrics"])))
                self._reallocations = opened.enter_context(
                    closing(LineLog(folder.reallocations, known["reallocations"]))
                )
            except ValueError as error:
                raise InputError(f"the run {folder.path} is damaged: {error}") from error
            if checkpoint is not None:
                with blaming(checkpoint):
                    check_updates(checkpoint, self._reallocations.lines)
            self._opened = opened.pop_all()
        self._opened.callback(lock.release)
        self._saved = time.monotonic()

    def update(self, reallocation: Reallocation, clock: Clock, metrics: Mapping[str, float]) -> None:
        """Write the update's line."""
        self._reallocations.append(update_line(reallocation, clock, metrics))

    def epoch(self, line: Metrics) -> None:
        """Write the epoch's line."""
        self._metrics.append(attrs.asdict(line))

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the last checkpoint is a minute old."""
        return time.monotonic() - self._saved > _SECONDS_BETWEEN_CHECKPOINTS

    def save(self, make_checkpoint: MakeCheckpoint, effort: Effort) -> None:
        """Write the checkpoint, with the lengths of the logs in it."""
        logs = {"metrics": self._metrics.sync(), "reallocations": self._reallocations.sync()}
        # before the checkpoint, because nothing is measured again in a run whose checkpoint is at its end
        write_whole(self._folder.seconds, record_content(effort))
        make_checkpoint({"logs": {name: attrs.asdict(log) for name, log in logs.items()}}).write(
            self._folder.checkpoint
        )
        self._saved = time.monotonic()

    def keep(self, epoch: int, make_checkpoint: MakeCheckpoint) -> None:
        """Write the state to the file of this epoch."""
        make_checkpoint({}).write(self._folder.kept(epoch))

    def close(self) -> None:
        """Close the logs and release the folder."""
        self._opened.close()
