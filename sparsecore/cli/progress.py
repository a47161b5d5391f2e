"""Progress on standard error: a bar of a run, and lines or bars of a study."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sparsecore.cli.output import print_message
from sparsecore.engine.schedules import Clock
from sparsecore.errors import printable
from sparsecore.learning.protocols import Totals
from sparsecore.run.logs import Metrics
from sparsecore.run.training import Callback
from sparsecore.study.folder import StudyFolder
from sparsecore.study.scheduler import StudyCallback, seconds_left
from sparsecore.study.trials import Trial

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

_UPDATE_SECONDS = 0.2


class _RichDisplay:
    """Shows bars of rich within ``with``."""

    _progress: "Progress"

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class RunProgressBar(_RichDisplay, Callback):
    """A progress bar of a run, with loss, accuracy, images/s, and the metrics and K of the latest update."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        """Create the bar; it is shown within ``with``.

        Args:
            clock: time before the first step, which has the number of steps.
            epochs: number of epochs of the run.
        """
        from rich.console import Console

        self._progress = _two_line_progress(Console(stderr=True))
        self._task = self._progress.add_task("", total=clock.total_steps, details="")
        self._epochs = epochs
        self._update = ""
        self._refreshed, self._examples, self._tested = time.monotonic(), 0, ""

    def step(self, clock: Clock, totals: Callable[[], Totals]) -> None:
        """Show the totals of the epoch so far, a few times a second."""
        now = time.monotonic()
        if now - self._refreshed < _UPDATE_SECONDS:
            return
        seen = totals()
        speed = max(0, seen.examples - self._examples) / (now - self._refreshed)
        self._refreshed, self._examples = now, seen.examples
        epoch = min((clock.step - 1) // clock.steps_per_epoch + 1, self._epochs)
        loss, accuracy = seen.loss / seen.examples, seen.correct / seen.examples
        details = f"loss {loss:.3f}  accuracy {accuracy:.3f}  {speed:.0f} images/s{self._update}{self._tested}"
        self._progress.update(
            self._task, completed=clock.step, description=f"epoch {epoch}/{self._epochs}", details=details
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


def _two_line_progress(console: "Console") -> "Progress":
    """Create a bar with its details on a line below, so that both fit a narrow terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class _TwoLines(Progress):
        def get_renderables(self) -> "Iterable[RenderableType]":
            yield from super().get_renderables()
            yield from (Text(task.fields["details"], overflow="fold") for task in self.tasks if task.fields["details"])

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return _TwoLines(*columns, console=console)


class StudyStatus:
    """How many trials of a study have finished, and how long the others may take."""

    def __init__(self, trials: Sequence[Trial], folder: StudyFolder, jobs: int) -> None:
        """Keep the trials, the study's folder, and how many trials run at the same time."""
        self.trials, self.folder, self._jobs = trials, folder, jobs

    def finished(self) -> int:
        """Return the number of trials with a result."""
        return sum(self.folder.result(trial) is not None for trial in self.trials)

    def time_left(self) -> str:
        """Describe the estimated time left; empty while there is no estimate."""
        seconds = seconds_left(self.trials, self.folder, self._jobs)
        return "" if not seconds else f"about {format_duration(seconds)} left"

    def summary(self) -> str:
        """Describe both, such as '3 of 10 trials finished, about 20 min left'."""
        finished = f"{self.finished()} of {len(self.trials)} trials finished"
        return ", ".join(filter(None, (finished, self.time_left())))


class StudyProgress(StudyCallback):
    """Shows the progress of a study within ``with``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class StudyProgressLines(StudyProgress):
    """Prints a line on standard error whenever a trial ends, for output that is no terminal."""

    def __init__(self, status: StudyStatus) -> None:
        self._status = status

    def __enter__(self) -> Self:
        print_message(f"sparsecore: {self._status.summary()}")
        return self

    def trial_ended(self, trial: Trial, status: int) -> None:  # noqa: ARG002
        """Print the trial's test accuracy, or that it failed."""
        result = self._status.folder.result(trial)
        outcome = "failed" if result is None else f"test accuracy {result.test_accuracy:.4f}"
        print_message(f"sparsecore: {trial.name}: {outcome} ({self._status.summary()})")


class StudyProgressBars(_RichDisplay, StudyProgress):
    """Shows a bar for all trials together, and one for each that is running."""

    def __init__(self, status: StudyStatus) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._status = status
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._all = self._progress.add_task("all trials", total=len(status.trials), details="")
        self._bars: dict[Trial, TaskID] = {}

    def poll(self, running: Sequence[Trial]) -> None:
        """Update the bars from the trials' folders."""
        self._progress.update(self._all, completed=self._status.finished(), details=self._status.time_left())
        for trial in running:
            if self._status.folder.run(trial).path.exists():
                done, epochs = self._status.folder.epochs(trial)
                self._progress.update(self._bar(trial, epochs), completed=done)

    def trial_ended(self, trial: Trial, status: int) -> None:
        """Remove the trial's bar, and say where its log is if it failed."""
        if trial in self._bars:
            self._progress.remove_task(self._bars.pop(trial))
        if status:
            sentence = printable(f"{trial.name} failed; see {self._status.folder.log(trial)}")
            self._progress.console.print(sentence, markup=False)

    def _bar(self, trial: Trial, epochs: int) -> "TaskID":
        if trial not in self._bars:
            self._bars[trial] = self._progress.add_task(printable(trial.name), total=epochs, details="epochs")
        return self._bars[trial]


def format_duration(seconds: float) -> str:
    """Describe an estimated duration in rounded seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
