"""The figures of a run's report, each a function of the run."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparsecore.errors import printable
from sparsecore.report.drawing import ReportFigure, draw_axes, evenly_spaced, hover
from sparsecore.report.reading import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's colours; lines of one figure also differ in style, for readers in greyscale
BLUE, VERMILION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
MAX_MARKERS = 40


SIZE = (6.4, 4.2)
WHOLE_WIDTH = (12.2, 3.2)
MAX_POINTS = 1000
MAX_UPDATES = 250  # each adds four corners to the outline of every tensor's area
MAX_LINES = 40
MAX_HOVERS = 8  # points of a tensor's area that have tooltips
LEGEND_ROWS = 26
LEGEND_COLUMNS = 2


def accuracy(run: RunRecord) -> ReportFigure:
    """Draw train and test accuracy over epochs, in percent of the images.

    Args:
        run: what its folder has; without a finished epoch nothing is drawn, and the caption says so.
    """
    if not run.epochs:
        return ReportFigure("Accuracy", "No epoch has finished yet.")
    last = run.epochs[-1]

    def paint(axes: "Axes") -> None:
        train = [epoch.train_accuracy * 100 for epoch in run.epochs]
        _train_and_test(axes, run, train, [epoch.test_accuracy * 100 for epoch in run.epochs])
        axes.set_ylabel("accuracy (% of images)")

    caption = f"After epoch {last.epoch}: test {last.test_accuracy:.2%}, train {last.train_accuracy:.2%}."
    return ReportFigure("Accuracy", caption, draw_axes("accuracy", SIZE, paint))


def loss(run: RunRecord) -> ReportFigure:
    """Draw train and test loss over epochs, the mean cross-entropy in nats per image.

    Args:
        run: what its folder has; without a finished epoch nothing is drawn, and the caption says so.
    """
    if not run.epochs:
        return ReportFigure("Loss", "No epoch has finished yet.")
    last = run.epochs[-1]

    def paint(axes: "Axes") -> None:
        train = [epoch.train_loss for epoch in run.epochs]
        _train_and_test(axes, run, train, [epoch.test_loss for epoch in run.epochs])
        axes.set_ylabel("cross-entropy (nats per image)")
        from_zero(axes)

    caption = f"After epoch {last.epoch}: test {last.test_loss:.4f}, train {last.train_loss:.4f} nats per image."
    return ReportFigure("Loss", caption, draw_axes("loss", SIZE, paint))


def learning_rate(run: RunRecord, size: tuple[float, float] = SIZE) -> ReportFigure:
    """Draw the learning rate at the last step of each epoch.

    Args:
        run: what its folder has; without a finished epoch nothing is drawn, and the caption says so.
        size: width and height in inches.
    """
    title = "Learning rate"
    points = [(epoch.epoch, epoch.learning_rate) for epoch in run.epochs if epoch.learning_rate is not None]
    if not points:
        return ReportFigure(title, "No epoch has finished yet.")
    shown = [points[index] for index in evenly_spaced(len(points), MAX_POINTS)]

    def paint(axes: "Axes") -> None:
        epochs, rates = zip(*shown, strict=True)
        line(axes, epochs, rates, color=BLUE, drawstyle="steps-pre")
        axes.set_ylabel("learning rate")
        from_zero(axes)
        over_epochs(axes, run)

    lowest, highest = (extreme(rate for _, rate in points) for extreme in (min, max))
    caption = f"Between {lowest:.3g} and {highest:.3g}, at the last step of each epoch."
    return ReportFigure(title, caption, draw_axes("rate", size, paint))


def strategy_metrics(run: RunRecord) -> list[ReportFigure]:
    """Draw a figure for each metric that a strategy reports at updates, over optimizer steps.

    Args:
        run: what its folder has.

    Returns:
        The figures in the order in which the metrics were first reported; empty if there are none. The y-axis is
        logarithmic where the numbers are positive and differ at least by a factor of 2.
    """
    names = dict.fromkeys(name for update in run.updates for name in update.metrics)
    return [_strategy_metric(run, name, f"strategy-metric-{number}") for number, name in enumerate(names)]


def _strategy_metric(run: RunRecord, name: str, element: str) -> ReportFigure:
    strategy, _, metric = name.rpartition(".")
    points = [(update.step, update.metrics[name]) for update in run.updates if name in update.metrics]
    shown = [points[index] for index in evenly_spaced(len(points), MAX_POINTS)]
    lowest, highest = (extreme(number for _, number in points) for extreme in (min, max))
    # a logarithmic axis has no place for zero, and a number that hardly changes is easier to read on a linear one
    is_logarithmic = 0 < 2 * lowest <= highest

    def paint(axes: "Axes") -> None:
        steps, numbers = zip(*shown, strict=True)
        line(axes, steps, numbers, color=BLUE, drawstyle="steps-post")
        if is_logarithmic:
            axes.set_yscale("log")
        axes.set_ylabel(metric)
        over_steps(axes, run)

    scale = "; logarithmic scale" if is_logarithmic else ""
    caption = f"Reported at each update: between {lowest:.3g} and {highest:.3g}{scale}. "
    return ReportFigure(
        f"{metric} ({strategy})", caption + _drawn(len(shown), len(points)), draw_axes(element, SIZE, paint)
    )


def pruned_and_grown(run: RunRecord) -> ReportFigure:
    """Draw the numbers of weights pruned and grown at each update, over optimizer steps.

    Args:
        run: what its folder has; without an update nothing is drawn, and the caption says so. Of more than
            :data:`MAX_POINTS` updates that many are drawn.
    """
    title = "Weights moved per update"
    if not run.updates:
        return ReportFigure(title, "No update yet: the topology is that of the start.")
    pruned, grown = [sum(u.pruned.values()) for u in run.updates], [sum(u.grown.values()) for u in run.updates]
    shown = evenly_spaced(len(run.updates), MAX_POINTS)
    # counts of many updates jump at every point, and thick lines would fill the axes
    width = 1.0 if len(shown) < MAX_POINTS // 2 else 0.3

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
    return ReportFigure(title, caption + _drawn(len(shown), len(pruned)), draw_axes("moved", SIZE, paint))


def _train_and_test(axes: "Axes", run: RunRecord, train: Sequence[float], test: Sequence[float]) -> None:
    shown = evenly_spaced(len(run.epochs), MAX_POINTS)
    epochs = [run.epochs[index].epoch for index in shown]
    line(axes, epochs, [train[index] for index in shown], label="train", color=VERMILION, linestyle=(0, (4, 1.5)))
    line(axes, epochs, [test[index] for index in shown], label="test", color=BLUE)
    legend_above(axes)
    over_epochs(axes, run)


def _drawn(shown: int, count: int) -> str:
    return "" if shown == count else f"{shown:,} of {count:,} updates are drawn, evenly spaced."


def active_parameters(run: RunRecord) -> ReportFigure:
    """Draw the active parameters of each tensor over optimizer steps, stacked in network order.

    Args:
        run: what its folder has. At most :data:`MAX_UPDATES` updates are drawn, and some 50 tensors are named.
    """
    title = "Active parameters per tensor"
    if not run.tensors:
        return ReportFigure(title, "This run has no sparse tensors.")
    shown = evenly_spaced(len(run.updates), MAX_UPDATES)
    named = set(evenly_spaced(len(run.tensors), LEGEND_ROWS * LEGEND_COLUMNS))
    columns = math.ceil(len(named) / LEGEND_ROWS)

    def paint(axes: "Axes") -> None:
        _stack(axes, run, shown, named)
        axes.set_ylabel("active parameters")
        whole_numbers(axes.yaxis)
        over_steps(axes, run, margin=1.0)
        handles, labels = axes.get_legend_handles_labels()
        # from the top, in the order of the areas
        style = {"fontsize": 12, "labelspacing": 0.25, "handlelength": 1.4, "ncols": columns}
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), **style)

    caption = "Tensors in network order from the bottom; a step is an update that moved weights between them."
    if len(named) < len(run.tensors):
        caption += f" {len(named)} of {len(run.tensors)} tensors are named, evenly spaced."
    if len(shown) < len(run.updates):
        caption += f" {len(shown)} of {len(run.updates):,} updates are drawn, evenly spaced."
    return ReportFigure(title, caption, draw_axes("active", (8.4 + 2.6 * columns, 6.0), paint))


def densities(run: RunRecord) -> ReportFigure:
    """Draw the density of each tensor over optimizer steps, a line for each, in percent of its positions.

    Args:
        run: what its folder has; without an update nothing is drawn, and the caption says so. At most
            :data:`MAX_LINES` tensors are drawn, evenly spaced.
    """
    title = "Density of each tensor"
    if not run.updates:
        return ReportFigure(title, "No update yet: every tensor is as dense as at the start.")
    shown, lines = evenly_spaced(len(run.updates), MAX_UPDATES), evenly_spaced(len(run.tensors), MAX_LINES)

    def paint(axes: "Axes") -> None:
        from matplotlib import colormaps

        updates = [run.updates[index] for index in shown]
        steps = [0, *(update.step for update in updates)]
        for tensor in (run.tensors[index] for index in lines):
            shade = 0.92 * run.tensors.index(tensor) / max(1, len(run.tensors) - 1)
            active = [tensor.active, *(update.active[tensor.name] for update in updates)]
            shares = [100 * count / tensor.size for count in active]
            axes.plot(steps, shares, color=colormaps["viridis"](shade), linewidth=1.4, drawstyle="steps-post")
            name = printable(tensor.name)
            texts = [f"{name}: {share:.3g} % at step {step:,}" for step, share in zip(steps, shares, strict=True)]
            hover(axes, steps, shares, texts)
        axes.set_ylabel("active (% of positions)")
        from_zero(axes)
        over_steps(axes, run)

    caption = (
        "The darkest line is the first tensor, the lightest the last. Point at a line to see its tensor and values."
    )
    if len(lines) < len(run.tensors):
        caption += f" {len(lines)} of {len(run.tensors)} tensors are drawn, evenly spaced."
    return ReportFigure(title, caption, draw_axes("densities", (6.4, 4.2), paint))


def _stack(axes: "Axes", run: RunRecord, shown: list[int], named: set[int]) -> None:
    from matplotlib import colormaps

    updates = [run.updates[index] for index in shown]
    steps = [0, *(update.step for update in updates), max(1, run.last_step)]
    now = dict(zip((tensor.name for tensor in run.tensors), run.active, strict=True))
    counts = [
        [tensor.active, *(update.active[tensor.name] for update in updates), now[tensor.name]] for tensor in run.tensors
    ]
    names = [printable(tensor.name) if index in named else "_" for index, tensor in enumerate(run.tensors)]
    # the darkest end of the map is for the first layer; the palest, hard to see on white, is left out
    shades = [0.92 * index / max(1, len(names) - 1) for index in range(len(names))]
    colors = [colormaps["viridis"](shade) for shade in shades]
    axes.stackplot(steps, counts, labels=names, colors=colors, step="post", edgecolor="white", linewidth=0.2)
    below, points = [0] * len(steps), evenly_spaced(len(steps), MAX_HOVERS)
    for tensor, of_tensor in zip(run.tensors, counts, strict=True):
        middles = [low + count / 2 for low, count in zip(below, of_tensor, strict=True)]
        below = [low + count for low, count in zip(below, of_tensor, strict=True)]
        texts = [f"{printable(tensor.name)}: {of_tensor[point]:,} at step {steps[point]:,}" for point in points]
        hover(axes, [steps[point] for point in points], [middles[point] for point in points], texts)


def line(axes: "Axes", x: Sequence[float], y: Sequence[float], **style: Any) -> None:
    """Draw a line with tooltips; if it has few points, with markers, as a line of one point would be invisible.

    Args:
        axes: the axes to draw on.
        x: the coordinates of the points, at least one.
        y: their values, as many; a point that is not finite has no tooltip.
        style: of ``Axes.plot``; the tooltips begin with its ``label``.
    """
    markers: dict[str, Any] = {"marker": "o", "markersize": 5} if len(x) <= MAX_MARKERS else {}
    axes.plot(x, y, **markers, **style)
    name = f"{style['label']}: " if "label" in style else ""
    hover(axes, x, y, [f"{name}{value:.6g} at {at:,g}" for at, value in zip(x, y, strict=True)])


def over_epochs(axes: "Axes", run: RunRecord) -> None:
    """Set up the x-axis from the start to the last epoch."""
    axes.set_xlabel("epoch")
    axes.set_xlim(0, max(1, run.epochs[-1].epoch) * 1.02)
    whole_numbers(axes.xaxis)


def over_steps(axes: "Axes", run: RunRecord, margin: float = 1.02) -> None:
    """Set up the x-axis from the start to the last optimizer step.

    Args:
        axes: the axes to set up.
        run: the run that is drawn.
        margin: where the axis ends, as a multiple of the last step.
    """
    axes.set_xlabel("optimizer step")
    axes.set_xlim(0, max(1, run.last_step) * margin)
    whole_numbers(axes.xaxis)


def from_zero(axes: "Axes") -> None:
    """Set up the y-axis from zero to above the highest finite point."""
    top = axes.dataLim.ymax
    axes.set_ylim(0, top * 1.06 if 0 < top < math.inf else 1)


def legend_above(axes: "Axes") -> None:
    """Place the legend above the axes, where it covers no line."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0)


def whole_numbers(axis: "Axis") -> None:
    """Set ticks at whole numbers, with commas between thousands."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
