"""Somebody who looks on while a run trains."""

from collections.abc import Callable
from typing import Protocol

from sparsecore.clock import Clock
from sparsecore.learning import Totals
from sparsecore.run.records import Metrics


class Watcher(Protocol):
    """Somebody who looks on: a progress bar, or nobody."""

    def step(self, clock: Clock, totals: Callable[[], Totals]) -> None:
        """An optimizer step is done; ``totals`` of the epoch so far are there for the asking."""
        ...

    def update(self, moved: int, threshold: float | None) -> None:
        """An update is done: K, and H where there is one."""
        ...

    def epoch(self, line: Metrics) -> None:
        """An epoch is done."""
        ...


class Nobody:
    """Looks away."""

    def step(self, clock: Clock, totals: Callable[[], Totals]) -> None:
        """See :class:`Watcher`."""

    def update(self, moved: int, threshold: float | None) -> None:
        """See :class:`Watcher`."""

    def epoch(self, line: Metrics) -> None:
        """See :class:`Watcher`."""
