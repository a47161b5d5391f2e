"""The record of a training's updates: their history, and the observers that are called for them."""

from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.reallocation import Reallocation
from sparsecore.observers.history import History
from sparsecore.observers.metrics import topology_metrics, update_metrics
from sparsecore.observers.observation import Observation, Subject


class Record:
    """Measures the updates of a training, keeps their history and calls its observers.

    Args:
        engines: of the training.
        subject: what observers get to know of the training as a whole.

    Attributes:
        history: the updates so far.
        observation: the observers.
    """

    def __init__(self, engines: EngineGroups, subject: Subject) -> None:
        self._engines = engines
        self.history = History(len(engines.layout))
        self.observation = Observation(subject)

    def add(self, reallocation: Reallocation, before: GroupStates, after: GroupStates) -> None:
        """Add an update.

        Args:
            reallocation: the update.
            before: the state that it was made with, at whose metrics the strategies are asked.
            after: the state after it.

        Raises:
            InvariantError: a strategy reports what is no finite number, or under a name that is no identifier.
        """
        reported = self._engines.metrics(before)
        metrics = update_metrics(reallocation, reported, regrow_pruned=self._engines.regrow_pruned)
        self.history = self.history.after(reallocation, after.clock.step, metrics)
        self.observation.updated(reallocation, after.clock, metrics)

    def metrics(self, now: GroupStates) -> dict[str, float]:
        """Return the metrics of the present topology and of the last update.

        Args:
            now: the present state.

        Returns:
            By name: those of :func:`sparsecore.observers.metrics.topology_metrics` and
            :func:`sparsecore.observers.metrics.update_metrics`. Before the first update nothing has moved, and
            strategies report what it would be made with.

        Raises:
            InvariantError: as in :meth:`add`.
        """
        reported = {} if self.history.entries else self._engines.metrics(now)
        return {**topology_metrics(now.topology), **self.history.latest, **self.observation.itop(), **reported}
