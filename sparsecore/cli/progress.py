"""A progress bar on standard error."""

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from sparsecore.clock import Clock
from sparsecore.learning import Totals
from sparsecore.run.records import Metrics

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

_SECONDS_BETWEEN_LOOKS = 0.2


def _two_lines(console: "Console") -> "Progress":
    """A bar, and what is told below it, so that both are whole in a narrow terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class _TwoLines(Progress):
        def get_renderables(self) -> "Iterable[RenderableType]":
            yield from super().get_renderables()
            yield from (Text(task.fields["told"], overflow="fold") for task in self.tasks if task.fields["told"])

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return _TwoLines(*columns, console=console)


class ProgressBar:
    """Loss, accuracy and images/s of the epoch so far, and the latest update's H and K. See ``Watcher``."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        """A bar over the whole run that ``clock`` begins."""
        from rich.console import Console

        self._progress = _two_lines(Console(stderr=True))
        self._task = self._progress.add_task("", total=clock.total_steps, told="")
        self._epochs = epochs
        self._update = ""
        self._looked, self._examples, self._tested = time.monotonic(), 0, ""

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, clock: Clock, totals: Callable[[], Totals]) -> None:
        """See ``Watcher``."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        seen = totals()
        speed = max(0, seen.examples - self._examples) / (now - self._looked)
        self._looked, self._examples = now, seen.examples
        epoch = min((clock.step - 1) // clock.steps_per_epoch + 1, self._epochs)
        told = (
            f"loss {seen.loss / seen.examples:.3f}  accuracy {seen.correct / seen.examples:.3f}  {speed:.0f} images/s"
        )
        description = f"epoch {epoch}/{self._epochs}"
        self._progress.update(
            self._task, completed=clock.step, description=description, told=told + self._update + self._tested
        )

    def update(self, moved: int, threshold: float | None) -> None:
        """See ``Watcher``."""
        height = "" if threshold is None else f"H {threshold:.3g}  "
        self._update = f"  {height}K {moved:,}"

    def epoch(self, line: Metrics) -> None:
        """See ``Watcher``."""
        self._examples = 0
        self._tested = f"  test {line.test_accuracy:.3f}"
        self._progress.update(self._task, completed=line.step)
