"""A progress bar on standard error."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from sparsecore.cli.output import print_message
from sparsecore.errors import printable
from sparsecore.study.experiments import Trial
from sparsecore.study.folder import StudyFolder
from sparsecore.study.scheduler import StudyCallback, seconds_left

if TYPE_CHECKING:
    from rich.progress import TaskID

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sparsecore.engine.schedules import Clock
from sparsecore.learning.protocols import Totals
from sparsecore.run.logs import Metrics
from sparsecore.run.training import Callback

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress


class StudyProgress(StudyCallback, Protocol):
    """An callback that is there for a time."""

    def __enter__(self) -> "StudyProgress": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StudyStatus:
    """What can be said of the trials as a whole."""

    def __init__(self, trials: Sequence[Trial], folder: StudyFolder, jobs: int) -> None:
        self.trials, self.folder, self._jobs = trials, folder, jobs

    def finished(self) -> int:
        """Trials with a result."""
        return sum(self.folder.result(trial) is not None for trial in self.trials)

    def left(self) -> str:
        """How long it may take, in words; empty while there is nothing to go by."""
        seconds = seconds_left(self.trials, self.folder, self._jobs)
        return "" if not seconds else f"about {format_duration(seconds)} left"

    def of_all(self) -> str:
        """How many of them are finished, and how long the others may take."""
        return ", ".join(filter(None, (f"{self.finished()} of {len(self.trials)} trials finished", self.left())))


class StudyProgressLines:
    """A line on standard error whenever a trial ends."""

    def __init__(self, told: "StudyStatus") -> None:
        self._told = told

    def __enter__(self) -> "StudyProgressLines":
        print_message(f"sparsecore: {self._told.of_all()}")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def poll(self, running: Sequence[Trial]) -> None:
        """See :class:`sparsecore.study.scheduler.StudyCallback`."""

    def trial_ended(self, trial: Trial, status: int) -> None:  # noqa: ARG002
        """See :class:`sparsecore.study.scheduler.StudyCallback`."""
        result = self._told.folder.result(trial)
        what = "failed" if result is None else f"test accuracy {result['test_accuracy']:.4f}"
        print_message(f"sparsecore: {trial.name}: {what} ({self._told.of_all()})")


class StudyProgressBars:
    """A bar for all trials, and one for each that is running."""

    def __init__(self, told: StudyStatus) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._told = told
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._all = self._progress.add_task("all trials", total=len(told.trials), told="")
        self._bars: dict[Trial, TaskID] = {}

    def __enter__(self) -> "StudyProgressBars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def poll(self, running: Sequence[Trial]) -> None:
        """See :class:`sparsecore.study.scheduler.StudyCallback`."""
        self._progress.update(self._all, completed=self._told.finished(), told=self._told.left())
        for trial in running:
            if self._told.folder.run(trial).path.exists():
                done, epochs = self._told.folder.epochs(trial)
                self._progress.update(self._bar(trial, epochs), completed=done)

    def trial_ended(self, trial: Trial, status: int) -> None:
        """See :class:`sparsecore.study.scheduler.StudyCallback`."""
        if trial in self._bars:
            self._progress.remove_task(self._bars.pop(trial))
        if status:
            said = printable(f"{trial.name} failed; see {self._told.folder.log(trial)}")
            self._progress.console.print(said, markup=False)

    def _bar(self, trial: Trial, epochs: int) -> "TaskID":
        if trial not in self._bars:
            self._bars[trial] = self._progress.add_task(printable(trial.name), total=epochs, told="epochs")
        return self._bars[trial]


def format_duration(seconds: float) -> str:
    """A time that nobody takes at its word."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


_SECONDS_BETWEEN_LOOKS = 0.2


def _two_line_progress(console: "Console") -> "Progress":
    """A bar, and what is told below it, so that both are whole in a narrow terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class _TwoLines(Progress):
        def get_renderables(self) -> "Iterable[RenderableType]":
            yield from super().get_renderables()
            yield from (Text(task.fields["told"], overflow="fold") for task in self.tasks if task.fields["told"])

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return _TwoLines(*columns, console=console)


class RunProgressBar(Callback):
    """Loss, accuracy and images/s of the epoch so far, and the latest update's H and K."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        """A bar over the whole run that ``clock`` begins."""
        from rich.console import Console

        self._progress = _two_line_progress(Console(stderr=True))
        self._task = self._progress.add_task("", total=clock.total_steps, told="")
        self._epochs = epochs
        self._update = ""
        self._looked, self._examples, self._tested = time.monotonic(), 0, ""

    def __enter__(self) -> "RunProgressBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, clock: Clock, totals: Callable[[], Totals]) -> None:
        """Update the bar with the totals of the epoch, a few times a second."""
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

    def update(self, pruned: int, metrics: Mapping[str, float]) -> None:
        """Show the strategies' metrics and K of the update from the next step on."""
        reported = "".join(f"{name.rpartition('.')[2]} {number:.3g}  " for name, number in metrics.items())
        self._update = f"  {reported}K {pruned:,}"

    def epoch(self, line: Metrics) -> None:
        """Show the test accuracy."""
        self._examples = 0
        self._tested = f"  test {line.test_accuracy:.3f}"
        self._progress.update(self._task, completed=line.step)
