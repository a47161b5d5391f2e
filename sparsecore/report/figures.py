"""The line figures of a report, each a function of the run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from sparsecore.report.axes import (
    BLUE,
    ORANGE,
    VERMILION,
    from_zero,
    legend_above,
    line,
    over_epochs,
    over_steps,
    whole_numbers,
)
from sparsecore.report.drawing import draw, thin
from sparsecore.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.4, 4.2)
WHOLE_WIDTH = (12.2, 3.2)
MOST_POINTS = 1000


@attrs.frozen
class Figure:
    """A figure of the page; ``svg`` is empty where there is nothing to draw, and the caption says why."""

    title: str
    caption: str
    svg: str = ""


def accuracy(run: Run) -> Figure:
    """Train and test accuracy over epochs."""
    if not run.epochs:
        return Figure("Accuracy", "No epoch has finished yet.")
    last = run.epochs[-1]

    def paint(axes: "Axes") -> None:
        train = [epoch.train_accuracy * 100 for epoch in run.epochs]
        _train_and_test(axes, run, train, [epoch.test_accuracy * 100 for epoch in run.epochs])
        axes.set_ylabel("accuracy (% of images)")

    caption = f"After epoch {last.epoch}: test {last.test_accuracy:.2%}, train {last.train_accuracy:.2%}."
    return Figure("Accuracy", caption, draw("accuracy", SIZE, paint))


def loss(run: Run) -> Figure:
    """Train and test loss over epochs."""
    if not run.epochs:
        return Figure("Loss", "No epoch has finished yet.")
    last = run.epochs[-1]

    def paint(axes: "Axes") -> None:
        train = [epoch.train_loss for epoch in run.epochs]
        _train_and_test(axes, run, train, [epoch.test_loss for epoch in run.epochs])
        axes.set_ylabel("cross-entropy (nats per image)")
        from_zero(axes)

    caption = f"After epoch {last.epoch}: test {last.test_loss:.4f}, train {last.train_loss:.4f} nats per image."
    return Figure("Loss", caption, draw("loss", SIZE, paint))


def learning_rate(run: Run, size: tuple[float, float] = SIZE) -> Figure:
    """The learning rate of each epoch's last step, in a figure of this size in inches."""
    title = "Learning rate"
    points = [(epoch.epoch, epoch.learning_rate) for epoch in run.epochs if epoch.learning_rate is not None]
    if not points:
        return Figure(title, "No epoch has finished yet.")
    shown = [points[index] for index in thin(len(points), MOST_POINTS)]

    def paint(axes: "Axes") -> None:
        epochs, rates = zip(*shown, strict=True)
        line(axes, epochs, rates, color=BLUE, drawstyle="steps-pre")
        axes.set_ylabel("learning rate")
        from_zero(axes)
        over_epochs(axes, run)

    lowest, highest = (extreme(rate for _, rate in points) for extreme in (min, max))
    caption = f"Between {lowest:.3g} and {highest:.3g}, at the last step of each epoch."
    return Figure(title, caption, draw("rate", size, paint))


def threshold(run: Run) -> Figure:
    """The pruning threshold H over updates."""
    title = "Pruning threshold H"
    # a logarithmic axis has no place for zero
    points = [(u.step, u.threshold) for u in run.updates if u.threshold is not None and u.threshold > 0]
    if not points:
        return Figure(title, "This run's updates have no threshold." if run.updates else "No update so far.")
    shown = [points[index] for index in thin(len(points), MOST_POINTS)]

    def paint(axes: "Axes") -> None:
        steps, thresholds = zip(*shown, strict=True)
        line(axes, steps, thresholds, color=BLUE, drawstyle="steps-post")
        axes.set_yscale("log")
        axes.set_ylabel("H (absolute weight)")
        over_steps(axes, run)

    lowest, highest = (extreme(height for _, height in points) for extreme in (min, max))
    caption = f"Between {lowest:.3g} and {highest:.3g}; logarithmic scale. {_drawn(len(shown), len(points))}"
    return Figure(title, caption, draw("threshold", SIZE, paint))


def pruned_and_grown(run: Run) -> Figure:
    """Weights pruned and grown at each update."""
    title = "Weights moved per update"
    if not run.updates:
        return Figure(title, "No update so far: the topology is that of the start.")
    pruned, grown = [sum(u.pruned.values()) for u in run.updates], [sum(u.grown.values()) for u in run.updates]
    shown = thin(len(run.updates), MOST_POINTS)
    # counts of many updates jump at every point, and thick lines would fill the axes
    width = 1.0 if len(shown) < MOST_POINTS // 2 else 0.3

    def paint(axes: "Axes") -> None:
        steps = [run.updates[index].step for index in shown]
        # the two mostly coincide: a broad line below a dashed narrow one shows both
        line(axes, steps, [pruned[index] for index in shown], label="pruned", color=ORANGE, linewidth=5 * width)
        narrow = {"color": BLUE, "linewidth": 1.8 * width, "linestyle": (0, (4, 2))}
        line(axes, steps, [grown[index] for index in shown], label="grown", **narrow)
        axes.set_ylabel("K (weights per update)")
        from_zero(axes)
        whole_numbers(axes.yaxis)
        legend_above(axes)
        over_steps(axes, run)

    caption = f"{sum(pruned):,} weights pruned and {sum(grown):,} grown in {len(pruned):,} updates. "
    return Figure(title, caption + _drawn(len(shown), len(pruned)), draw("moved", SIZE, paint))


def _train_and_test(axes: "Axes", run: Run, train: Sequence[float], test: Sequence[float]) -> None:
    shown = thin(len(run.epochs), MOST_POINTS)
    epochs = [run.epochs[index].epoch for index in shown]
    line(axes, epochs, [train[index] for index in shown], label="train", color=VERMILION, linestyle=(0, (4, 1.5)))
    line(axes, epochs, [test[index] for index in shown], label="test", color=BLUE)
    legend_above(axes)
    over_epochs(axes, run)


def _drawn(shown: int, count: int) -> str:
    return "" if shown == count else f"{shown:,} of {count:,} updates are drawn, evenly spread."
