"""The record of a training's updates: their metrics, and their history."""

from sparsecore.engine.engine import Engine
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import State
from sparsecore.observers.history import History
from sparsecore.observers.metrics import topology_metrics, update_metrics


class Record:
    """Measures the updates of a training and keeps their history.

    Args:
        engine: of the training.

    Attributes:
        history: the updates so far.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.history = History(len(engine.layout))

    def add(self, reallocation: Reallocation, before: State, after: State) -> None:
        """Add an update.

        Args:
            reallocation: the update.
            before: the state that it was made with, at whose metrics the strategies are asked.
            after: the state after it.

        Raises:
            InvariantError: a strategy reports what is no finite number, or under a name that is no identifier.
        """
        reported = self._engine.metrics(before)
        metrics = update_metrics(reallocation, reported, regrow_pruned=self._engine.regrow_pruned)
        self.history = self.history.after(reallocation, after.clock.step, metrics)

    def metrics(self, now: State) -> dict[str, float]:
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
        reported = {} if self.history.entries else self._engine.metrics(now)
        return {**topology_metrics(now.topology), **self.history.latest, **reported}
