"""The observers of a run: what its folder keeps of them, and telling them of updates and epochs."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.observers.coverage import Coverage
from sparsecore.observers.metrics import update_metrics
from sparsecore.observers.observation import Observation, Subject, flat_settings
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.logs import Effort, Metrics, read_record, record_content
from sparsecore.run.recording import MakeCheckpoint, RunWriter
from sparsecore.run.replay import moves
from sparsecore.run.setup import Setup


@attrs.frozen
class ObserverRecord:
    """What a run's folder keeps of its observers; observers.json holds it.

    Attributes:
        observers: the options of each, by the name that selects it.
        states: what they returned from :meth:`sparsecore.observers.Observer.state`, by the names of their classes.
    """

    observers: Mapping[str, dict[str, Any]] = attrs.field(factory=dict)
    states: Mapping[str, dict[str, str]] = attrs.field(factory=dict)


def read_observers(folder: RunFolder) -> ObserverRecord:
    """Return what the folder of a run keeps of its observers.

    Args:
        folder: the run's folder, which need not exist.

    Raises:
        InputError: the file is damaged.
    """
    return read_record(folder.observers, ObserverRecord) if folder.observers.exists() else ObserverRecord()


class ObservingWriter(RunWriter):
    """Tells observers of what another writer receives, after it has received it."""

    def __init__(
        self, writer: RunWriter, observers: Mapping[str, PluginChoice], setup: Setup, folder: RunFolder, state: State
    ) -> None:
        """Start the observers.

        Args:
            writer: the writer of the run's files, which has opened them.
            observers: the observers, by the names that select them.
            setup: the parts of the run that do not change.
            folder: the run's folder.
            state: the state that the run begins with or goes on from.

        Raises:
            InputError: an observer cannot be started.
        """
        self._writer, self._folder = writer, folder
        self._options = {
            name: {key: value for key, value in choice.table().items() if key != "name"}
            for name, choice in observers.items()
        }
        self._engine, self._written = setup.engine, read_observers(folder)
        settings = flat_settings(setup.experiment.tables())
        self._observation = Observation(Subject(settings, folder.path, folder.path.name))
        try:
            for choice in observers.values():
                self._observation.observe(choice.plugin, state.topology, state.clock)
            coverage = None if self._observation.coverage is None else _coverage(setup, folder)
            self._observation.restore(state.topology, state.clock, self._written.states, coverage)
            self._observation.begin()
            self._record()
        except BaseException:
            self._observation.end()
            raise

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the last checkpoint was long ago."""
        return self._writer.wants_checkpoint

    def update(self, reallocation: Reallocation, clock: Clock, metrics: Mapping[str, float]) -> None:
        """Receive an update of the topology."""
        self._writer.update(reallocation, clock, metrics)
        measured = update_metrics(reallocation, metrics, regrow_pruned=bool(self._engine.regrow_pruned))
        self._observation.updated(reallocation, clock, measured)

    def epoch(self, line: Metrics) -> None:
        """Receive the metrics of an epoch."""
        self._writer.epoch(line)
        numbers = attrs.asdict(line)
        self._observation.measured(numbers.pop("step"), {name: float(number) for name, number in numbers.items()})

    def save(self, make_checkpoint: MakeCheckpoint, effort: Effort) -> None:
        """Save a state that the run can be resumed from, and what the observers need to go on from there."""
        self._writer.save(make_checkpoint, effort)
        self._record()

    def keep(self, epoch: int, make_checkpoint: MakeCheckpoint) -> None:
        """Keep the state at the end of an epoch."""
        self._writer.keep(epoch, make_checkpoint)

    def close(self) -> None:
        """End the observers, and close all files."""
        try:
            self._observation.end()
        finally:
            self._writer.close()

    def _record(self) -> None:
        """Write what the folder keeps of the observers, where it has changed."""
        record = ObserverRecord(self._options, self._observation.states())
        if record != self._written:
            write_whole(self._folder.observers, record_content(record, indent=1))
            self._written = record


def _coverage(setup: Setup, folder: RunFolder) -> Coverage:
    """Return which positions were ever active in the run so far, from its start and its log of updates."""
    start = setup.start.topology
    coverage = Coverage(start.layout.size)
    coverage.add_topology(start)
    if folder.reallocations.exists():
        for move in moves(folder, start.layout):
            coverage.add(move.grown)
    return coverage
