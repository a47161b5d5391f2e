"""The training loop: one for every model, strategy and backend."""

import json
import time
from typing import Any

import attrs

from sparsecore.data.batches import batches
from sparsecore.errors import DivergedError, InputError
from sparsecore.learning import Learner
from sparsecore.reallocation import Reallocation
from sparsecore.run.checkpoint import from_checkpoint, read_checkpoint, to_checkpoint
from sparsecore.run.files import BusyError, LineLog, Lock, write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.identity import identity
from sparsecore.run.records import Metrics, metrics, reallocation_line, threshold
from sparsecore.run.setup import Setup
from sparsecore.run.watching import Watcher
from sparsecore.state import State
from sparsecore.topology import Topology

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


@attrs.frozen(eq=False)
class Finished:
    """A run that has come to its end.

    Attributes:
        state: after the last step.
        last: the last epoch's metrics.
        seconds: spent on it, in all goes together.
    """

    state: State
    last: Metrics
    seconds: float


class Run:
    """An experiment in its folder. What changes lives here, in the learner, and in the folder's files."""

    def __init__(self, setup: Setup, folder: RunFolder) -> None:
        """Take up the run where its checkpoint left it, or begin it.

        Raises:
            InputError: the checkpoint is damaged, or belongs to another experiment or other data, or another process
                is at work in the folder.
        """
        self._setup, self._folder = setup, folder
        try:
            self._lock = Lock(folder.experiment)
        except BusyError:
            raise InputError(f"the run {folder.path} is being trained by another process") from None
        self._identity = identity(setup)
        self._state = setup.start
        self._learner: Learner = setup.learner()
        self._last: Metrics | None = None
        lengths = {"metrics": 0, "reallocations": 0}
        if folder.checkpoint.exists():
            lengths = self._restore()
        write_whole(folder.tensors, json.dumps(_tensors(setup.start.topology), indent=1).encode())
        try:
            self._metrics = LineLog(folder.metrics, lengths["metrics"])
            self._reallocations = LineLog(folder.reallocations, lengths["reallocations"])
        except (ValueError, OSError) as error:
            raise InputError(f"the run {folder.path} is damaged: {error}") from error
        self._seconds_before = _read_seconds(folder) if self._state.clock.step else 0.0
        self._begun = self._saved = time.monotonic()

    def train(self, watcher: Watcher) -> Finished:
        """Go on to the end.

        Raises:
            DivergedError: a loss or a weight is not finite any more.
            InvariantError: a plugin broke a promise.
        """
        try:
            while not self._state.clock.has_ended:
                self._epoch(watcher)
        finally:
            self._metrics.close()
            self._reallocations.close()
            self._lock.release()
        assert self._last is not None
        return Finished(self._state, self._last, self._seconds())

    def _epoch(self, watcher: Watcher) -> None:
        setup, training = self._setup, self._setup.experiment.training
        epoch, start = divmod(self._state.clock.step, setup.start.clock.steps_per_epoch)
        plan = batches(
            setup.engine.random, epoch, len(setup.images.train), training.batch_size, setup.augmentation, start
        )
        learning_rate = training.learning_rate(self._state.clock)
        for batch in plan:
            learning_rate = training.learning_rate(self._state.clock)
            self._learner.train(batch, learning_rate)
            self._advance(learning_rate, watcher)
            watcher.step(self._state.clock, self._learner.totals)
            if time.monotonic() - self._saved > _SECONDS_BETWEEN_CHECKPOINTS and not self._is_epoch_over():
                self._save()
        self._end_epoch(learning_rate, watcher)

    def _is_epoch_over(self) -> bool:
        # a checkpoint between the last step and the epoch's metrics would lose their line
        return self._state.clock.step % self._setup.start.clock.steps_per_epoch == 0

    def _advance(self, learning_rate: float, watcher: Watcher) -> None:
        before, values = self._state, self._learner.values
        advance = self._setup.engine.advance(before, values, learning_rate)
        self._state = advance.state
        if advance.reallocation is not None:
            self._learner.reallocate(advance.reallocation)
            self._log(advance.reallocation, before, watcher)
        elif advance.values is not values:
            self._learner.set_values(advance.values)

    def _log(self, reallocation: Reallocation, before: State, watcher: Watcher) -> None:
        self._reallocations.append(reallocation_line(reallocation, self._state.clock, before.memories))
        watcher.update(reallocation.moved, threshold(before.memories))

    def _end_epoch(self, learning_rate: float, watcher: Watcher) -> None:
        train, test = self._learner.totals(), self._learner.evaluate(self._setup.images.test)
        line = metrics(self._state.clock, learning_rate, train, test)
        _check_finite(line)
        self._learner.reset_totals()
        self._last = line
        self._metrics.append(attrs.asdict(line))
        self._save()
        watcher.epoch(line)

    def _save(self) -> None:
        logs = {"metrics": self._metrics.sync(), "reallocations": self._reallocations.sync()}
        facts = {**self._identity, "logs": logs, "last": None if self._last is None else attrs.asdict(self._last)}
        to_checkpoint(self._state, self._learner, facts).write(self._folder.checkpoint)
        write_whole(self._folder.seconds, json.dumps({"seconds": self._seconds()}).encode())
        self._saved = time.monotonic()

    def _restore(self) -> dict[str, int]:
        """Take up the state of the checkpoint; the lengths that the logs had then."""
        checkpoint = read_checkpoint(self._folder.checkpoint)
        for what, expected in self._identity.items():
            if checkpoint.facts.get(what) != expected:
                raise InputError(f"the checkpoint {self._folder.checkpoint} is foreign: it was made with other {what}")
        self._state = from_checkpoint(checkpoint, self._state, self._learner)
        last = checkpoint.facts["last"]
        self._last = Metrics(**last) if last else None
        lengths: dict[str, int] = checkpoint.facts["logs"]
        return lengths

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._begun


def _check_finite(line: Metrics) -> None:
    for name in ("train_loss", "test_loss"):
        value = getattr(line, name)
        if not abs(value) < float("inf"):
            raise DivergedError(
                f"training has diverged: in epoch {line.epoch} the {name.replace('_', ' ')} is {value}; "
                "a lower learning rate may help"
            )


def _tensors(start: Topology) -> dict[str, Any]:
    rows = zip(start.layout.names, start.layout.shapes, start.counts, strict=True)
    return {"tensors": [{"name": name, "shape": list(shape), "active": int(count)} for name, shape, count in rows]}


def _read_seconds(folder: RunFolder) -> float:
    try:
        return float(json.loads(folder.seconds.read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # how long it took is no reason to refuse a sound checkpoint
