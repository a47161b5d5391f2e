"""A log of metrics in trackio."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.extras import require
from sparsecore.observers.metric_log import MetricLog
from sparsecore.observers.observer import ObservationStart


@attrs.define(eq=False, slots=False)
class TrackioLog(MetricLog):
    """A run of trackio, which keeps it in a file of SQLite on this machine or sends it to a Space.

    If a run is active in this process, metrics go there, and it stays active at the end; otherwise a run is begun. A
    training that goes on from a checkpoint continues the run that it had begun.

    Attributes:
        project: of a new run.
        run_name: of a new run; empty for the name of the run's folder; without one the library chooses.
        space: the Space of Hugging Face that a new run is sent to; empty for this machine.
    """

    project: str = "sparsecore"
    run_name: str = ""
    space: str = ""
    _run: Any = attrs.field(default=None, init=False, repr=False)
    _is_own: bool = attrs.field(default=False, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require("trackio", extra="trackio", purpose="a log in trackio")

    def open(self, start: ObservationStart) -> None:
        """Take the active run, continue the run of the checkpoint, or begin one."""
        import trackio
        from trackio.context_vars import current_run

        self.ended()
        active = current_run.get()
        self._is_own, self._run = active is None, active
        if self._run is None:
            self._run = trackio.init(
                self.project,
                name=start.saved.get("name") or self.run_name or start.name or None,
                space_id=self.space or None,
                resume="allow" if start.saved else "never",
                config=dict(start.settings),
                embed=False,
            )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log all metrics at this step."""
        if self._run is not None:
            self._run.log(self.prefixed(metrics), step=step)

    def state(self) -> Mapping[str, str]:
        """Return the name of the run that was begun here."""
        return {"name": self._run.name} if self._run is not None and self._is_own else {}

    def ended(self) -> None:
        """Finish the run that was begun here."""
        run, self._run = self._run, None
        if run is None or not self._is_own:
            return
        from trackio.context_vars import current_run

        run.finish()
        if current_run.get() is run:  # trackio leaves a finished run in place, where others would log to it
            current_run.set(None)
