"""A log of metrics in Weights & Biases."""

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from sparsecore.extras import require
from sparsecore.observers.metric_log import MetricLog
from sparsecore.observers.observer import ObservationStart


@attrs.define(eq=False, slots=False)
class WandbLog(MetricLog):
    """A run of Weights & Biases.

    If a run is active in this process, metrics go there, and it stays active at the end; otherwise a run is begun. A
    training that goes on from a checkpoint continues the run that it had begun. Metrics are plotted over the metric
    ``step``, the number of optimizer steps, and not over the steps of Weights & Biases, which count calls.

    Attributes:
        project: of a new run.
        entity: the user or team of a new run; empty for the default one.
        run_name: of a new run; empty for the name of the run's folder; without one the library chooses.
        mode: of a new run: 'online', 'offline', 'shared' or 'disabled'; empty for what the environment says.
    """

    project: str = "sparsecore"
    entity: str = ""
    run_name: str = ""
    mode: Literal["", "online", "offline", "shared", "disabled"] = ""
    _run: Any = attrs.field(default=None, init=False, repr=False)
    _is_own: bool = attrs.field(default=False, init=False, repr=False)
    _defined: set[str] = attrs.field(factory=set, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require("wandb", extra="wandb", purpose="a log in Weights & Biases")

    def open(self, start: ObservationStart) -> None:
        """Take the active run, continue the run of the checkpoint, or begin one."""
        import wandb

        self.ended()
        self._is_own, self._run = wandb.run is None, wandb.run
        if self._run is None:
            self._run = wandb.init(
                project=self.project,
                entity=self.entity or None,
                name=self.run_name or start.name or None,
                mode=self.mode or None,
                dir=start.folder,
                id=start.saved.get("id"),
                resume="allow" if start.saved else None,
                config=dict(start.settings),
            )
        self._defined = set()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log all metrics at once."""
        if self._run is None:
            return
        axis, named = f"{self.prefix}step", self.prefixed(metrics)
        for name in named.keys() - self._defined:
            self._run.define_metric(name, step_metric=axis)
        self._defined |= named.keys()
        self._run.log({axis: step, **named})

    def state(self) -> Mapping[str, str]:
        """Return the id of the run that was begun here."""
        return {"id": self._run.id} if self._run is not None and self._is_own else {}

    def ended(self) -> None:
        """Finish the run that was begun here."""
        run, self._run = self._run, None
        if run is not None and self._is_own:
            run.finish()
