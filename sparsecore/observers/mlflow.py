"""A log of metrics in MLflow."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from sparsecore.errors import InputError
from sparsecore.extras import require
from sparsecore.observers.metric_log import MetricLog
from sparsecore.observers.observer import ObservationStart

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_MOST_METRICS, _MOST_PARAMETERS = 1000, 100
"""The most that MLflow takes in one call."""

_LONGEST_PARAMETER = 6000
_REFUSED = re.compile(r"[^\w.\- /]", re.ASCII)
"""Letters that MLflow refuses in the names of metrics and parameters."""


@attrs.define(eq=False, slots=False)
class MlflowLog(MetricLog):
    """A run of MLflow.

    If a run is active in this process, metrics go there, and it stays active at the end; otherwise a run is begun. A
    training that goes on from a checkpoint continues the run that it had begun. Letters of names that MLflow refuses
    become '_'.

    Attributes:
        experiment: of a new run; it is created where it does not exist.
        run_name: of a new run; empty for the name of the run's folder; without one the library chooses.
        tracking_uri: where runs are stored, such as 'sqlite:///mlflow.db'; empty for what the environment says.
    """

    experiment: str = "sparsecore"
    run_name: str = ""
    tracking_uri: str = ""
    _client: Any = attrs.field(default=None, init=False, repr=False)
    _run_id: str = attrs.field(default="", init=False, repr=False)
    _is_own: bool = attrs.field(default=False, init=False, repr=False)
    _names: dict[str, str] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require("mlflow", extra="mlflow", purpose="a log in MLflow")

    def open(self, start: ObservationStart) -> None:
        """Take the active run, continue the run of the checkpoint, or begin one."""
        import mlflow

        self.ended()
        client = mlflow.MlflowClient(self.tracking_uri or None)
        active = mlflow.active_run()
        self._is_own = active is None
        if active is not None:
            self._run_id = active.info.run_id
        elif "run_id" in start.saved:
            self._run_id = start.saved["run_id"]
            client.update_run(self._run_id, status="RUNNING")
        else:
            self._run_id = self._begun(client, start)
        self._client = client

    def _begun(self, client: "MlflowClient", start: ObservationStart) -> str:
        from mlflow.entities import Param

        known = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if known is None else known.experiment_id
        run: str = client.create_run(experiment, run_name=self.run_name or start.name or None).info.run_id
        settings = [
            Param(_REFUSED.sub("_", name), str(value)[:_LONGEST_PARAMETER]) for name, value in start.settings.items()
        ]
        for some in _batches(settings, _MOST_PARAMETERS):
            client.log_batch(run, params=some)
        return run

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log all metrics at this step.

        Raises:
            InputError: the names of two metrics differ only in letters that MLflow refuses.
        """
        if self._client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(self._name(name), value, now, step) for name, value in self.prefixed(metrics).items()]
        for some in _batches(entries, _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=some)

    def _name(self, metric: str) -> str:
        """Return the name of a metric in MLflow, which no other metric has."""
        name = _REFUSED.sub("_", metric)
        other = self._names.setdefault(name, metric)
        if other != metric:
            raise InputError(f"the metrics {other!r} and {metric!r} have the same name in MLflow, {name!r}")
        return name

    def state(self) -> Mapping[str, str]:
        """Return the id of the run that was begun here."""
        return {"run_id": self._run_id} if self._client is not None and self._is_own else {}

    def ended(self) -> None:
        """Mark the run that was begun here as finished."""
        client, self._client = self._client, None
        if client is not None and self._is_own:
            client.set_terminated(self._run_id)


def _batches(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (entries[first : first + size] for first in range(0, len(entries), size))
