"""The figures of a run's report, each a function of the run."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate

from sparsecore.errors import printable
from sparsecore.report.charts import (
    MAX_CELLS,
    MAX_POINTS,
    Chart,
    Panel,
    Series,
    Table,
    evenly_spaced,
    readings,
    series_of,
)
from sparsecore.report.colours import BLUE, ORANGE, VERMILION, Style, ramp_style
from sparsecore.report.marks import MAX_MARKERS, Band, Line, held, held_before
from sparsecore.report.plane import Points
from sparsecore.report.reading import RunRecord, UpdateCounts
from sparsecore.report.scales import Axis
from sparsecore.run.logs import Metrics

MAX_UPDATES, _LEAST_UPDATES = 250, 40
"""Updates that a figure with a line for each tensor draws at most, with few and with very many tensors."""
_NUMBERS = 6000
"""Numbers that such a figure draws at most, unless that leaves it with fewer updates than the least."""
MAX_LINES = 40
"""Tensors that a figure draws at most."""
_NO_EPOCH = "No epoch has finished yet."
_TRAIN, _TEST = Style(VERMILION, "s", dashed=True), Style(BLUE, "o")
_ONE = Style(BLUE, "o")
_PRUNED, _GROWN = Style(ORANGE, "s"), Style(BLUE, "o", dashed=True)


def accuracy(run: RunRecord) -> Chart:
    """Draw train and test accuracy over epochs, in percent of the images.

    Args:
        run: what its folder has; without a finished epoch nothing is drawn, and the caption says so.
    """
    if not run.epochs:
        return Chart("accuracy", "Accuracy", _NO_EPOCH)
    last = run.epochs[-1]
    caption = f"After epoch {last.epoch}: test {last.test_accuracy:.2%}, train {last.train_accuracy:.2%}."
    train = [100 * epoch.train_accuracy for epoch in run.epochs]
    test = [100 * epoch.test_accuracy for epoch in run.epochs]
    table = _epoch_table(run.epochs, "train_accuracy", "test_accuracy")
    panel = _train_and_test(run, train, test, Axis("accuracy (% of images)"), "%")
    return _with_metrics("accuracy", "Accuracy", caption, panel, table)


def loss(run: RunRecord) -> Chart:
    """Draw train and test loss over epochs, the mean cross-entropy in nats per image.

    Args:
        run: what its folder has; without a finished epoch nothing is drawn, and the caption says so.
    """
    if not run.epochs:
        return Chart("loss", "Loss", _NO_EPOCH)
    last = run.epochs[-1]
    caption = f"After epoch {last.epoch}: test {last.test_loss:.4f}, train {last.train_loss:.4f} nats per image."
    train, test = [epoch.train_loss for epoch in run.epochs], [epoch.test_loss for epoch in run.epochs]
    table = _epoch_table(run.epochs, "train_loss", "test_loss")
    panel = _train_and_test(run, train, test, Axis("cross-entropy (nats per image)", low=0.0), "nats")
    return _with_metrics("loss", "Loss", caption, panel, table)


def _with_metrics(name: str, title: str, caption: str, panel: Panel, table: Table) -> Chart:
    return Chart(name, title, caption, (panel,), (("train", _TRAIN), ("test", _TEST)), table)


def _train_and_test(run: RunRecord, train: Sequence[float], test: Sequence[float], axis: Axis, unit: str) -> Panel:
    shown = evenly_spaced(len(run.epochs), MAX_POINTS)
    lines = [
        ("train", _TRAIN, [(float(run.epochs[index].epoch), train[index]) for index in shown]),
        ("test", _TEST, [(float(run.epochs[index].epoch), test[index]) for index in shown]),
    ]
    marks = [_line(name, style, points) for name, style, points in lines]
    return Panel("", _epochs(run), axis, marks, readings([series_of(*line) for line in lines], "epoch", unit))


def _epoch_table(epochs: Sequence[Metrics], *names: str) -> Table:
    rows = [(epoch.epoch, epoch.step, *(getattr(epoch, name) for name in names)) for epoch in epochs]
    return Table(("epoch", "step", *names), rows)


def learning_rate(run: RunRecord) -> Chart:
    """Draw the learning rate at the last step of each epoch.

    Args:
        run: what its folder has; without a finished epoch nothing is drawn, and the caption says so.
    """
    title = "Learning rate"
    points = [(float(epoch.epoch), epoch.learning_rate) for epoch in run.epochs if epoch.learning_rate is not None]
    if not points:
        return Chart("rate", title, _NO_EPOCH)
    shown = [points[index] for index in evenly_spaced(len(points), MAX_POINTS)]
    lowest, highest = (extreme(rate for _, rate in points) for extreme in (min, max))
    caption = f"Between {lowest:.3g} and {highest:.3g}, at the last step of each epoch."
    panel = Panel(
        "",
        _epochs(run),
        Axis("learning rate", low=0.0),
        [_line("learning rate", _ONE, shown, held_before)],
        readings([series_of("learning rate", _ONE, shown)], "epoch"),
    )
    return Chart("rate", title, caption, (panel,), table=_epoch_table(run.epochs, "learning_rate"))


def strategy_metrics(run: RunRecord) -> list[Chart]:
    """Draw a figure for each metric that a strategy reports at updates, over optimizer steps.

    Args:
        run: what its folder has.

    Returns:
        The figures in the order in which the metrics were first reported; empty if there are none. The y-axis is
        logarithmic where the numbers are positive and differ at least by a factor of 2.
    """
    names = dict.fromkeys(name for update in run.updates for name in update.metrics)
    return [_strategy_metric(run, name, f"strategy-metric-{number}") for number, name in enumerate(names)]


def _strategy_metric(run: RunRecord, name: str, element: str) -> Chart:
    strategy, _, metric = name.rpartition(".")
    updates = [update for update in run.updates if name in update.metrics]
    points = [(float(update.step), update.metrics[name]) for update in updates]
    shown = [points[index] for index in evenly_spaced(len(points), MAX_POINTS)]
    lowest, highest = (extreme(number for _, number in points) for extreme in (min, max))
    # a logarithmic axis has no place for zero, and a number that hardly changes is easier to read on a linear one
    is_logarithmic = 0 < 2 * lowest <= highest
    scale = "; logarithmic scale" if is_logarithmic else ""
    caption = f"Reported at each update: between {lowest:.3g} and {highest:.3g}{scale}. "
    panel = Panel(
        "",
        _steps(run),
        Axis(metric, is_logarithmic=is_logarithmic),
        [_line(metric, _ONE, shown, held)],
        readings([series_of(metric, _ONE, shown, holds=True)], "step"),
    )
    table = Table(("update", "step", name), [(one.update, one.step, one.metrics[name]) for one in updates])
    title = f"{printable(metric)} ({printable(strategy)})"
    return Chart(element, title, caption + _drawn(len(shown), len(points)), (panel,), table=table)


def pruned_and_grown(run: RunRecord) -> Chart:
    """Draw the numbers of weights pruned and grown at each update, over optimizer steps.

    Args:
        run: what its folder has; without an update nothing is drawn, and the caption says so. Of more than
            :data:`MAX_POINTS` updates that many are drawn.
    """
    title = "Weights moved per update"
    if not run.updates:
        return Chart("moved", title, "No update yet: the topology is that of the start.")
    rows = [(one.update, one.step, sum(one.pruned.values()), sum(one.grown.values())) for one in run.updates]
    shown = [rows[index] for index in evenly_spaced(len(rows), MAX_POINTS)]
    pruned = [(float(step), float(count)) for _, step, count, _ in shown]
    grown = [(float(step), float(count)) for _, step, _, count in shown]
    # counts of many updates jump at every point, and thick lines would fill the axes
    width = 1.0 if len(shown) <= MAX_UPDATES else 0.5
    panel = Panel(
        "",
        _steps(run),
        Axis("K (weights per update)", low=0.0, is_whole=True),
        # the two mostly coincide: a broad line below a dashed narrow one shows both
        [Line("pruned", _PRUNED, pruned, width=2.5 * width), Line("grown", _GROWN, grown, width=0.9 * width)]
        if len(shown) > 1
        else [_line("pruned", _PRUNED, pruned), _line("grown", _GROWN, grown)],
        readings([series_of("pruned", _PRUNED, pruned), series_of("grown", _GROWN, grown)], "step", "weights"),
    )
    total_pruned, total_grown = sum(row[2] for row in rows), sum(row[3] for row in rows)
    caption = f"{total_pruned:,} weights pruned and {total_grown:,} grown in {len(rows):,} updates. "
    table = Table(("update", "step", "pruned", "grown"), rows)
    legend = (("pruned", _PRUNED), ("grown", _GROWN))
    return Chart("moved", title, caption + _drawn(len(shown), len(rows)), (panel,), legend, table)


def _drawn(shown: int, count: int) -> str:
    return "" if shown == count else f"{shown:,} of {count:,} updates are drawn, evenly spaced."


def active_parameters(run: RunRecord) -> Chart:
    """Draw the active parameters of each tensor over optimizer steps, stacked in network order.

    Args:
        run: what its folder has. At most :data:`MAX_UPDATES` updates are drawn.
    """
    title = "Active parameters per tensor"
    if not run.tensors:
        return Chart("active", title, "This run has no sparse tensors.")
    shown = _shown_updates(run, len(run.tensors))
    end = float(max(1, run.last_step))
    steps = [0.0, *(float(update.step) for update in shown), end]
    now = dict(zip((tensor.name for tensor in run.tensors), run.active, strict=True))
    counts = [
        [tensor.active, *(update.active[tensor.name] for update in shown), now[tensor.name]] for tensor in run.tensors
    ]
    edges = list(accumulate(counts, _sum, initial=[0] * len(steps)))
    marks, series, legend = [], [], []
    for index, tensor in enumerate(run.tensors):
        style = ramp_style(index, len(run.tensors))
        low, high = (held(list(zip(steps, map(float, edges[index + above]), strict=True))) for above in (0, 1))
        marks.append(_area(tensor.name, style, low, high))
        middles = [(below + above) / 2 for below, above in zip(edges[index], edges[index + 1], strict=True)]
        texts = [f"{count:,}" for count in counts[index]]
        series.append(Series(tensor.name, style, list(zip(steps, middles, texts, strict=True)), holds=True))
        legend.append((tensor.name, style))
    caption = "Tensors in network order from the bottom; a step is an update that moved weights between them."
    if len(shown) < len(run.updates):
        caption += f" {len(shown)} of {len(run.updates):,} updates are drawn, evenly spaced."
    table, remark = _tensor_table(run, _counts)
    panel = Panel(
        "",
        Axis("optimizer step", low=0.0, high=end, is_whole=True),
        Axis("active parameters", low=0.0, is_whole=True),
        marks,
        readings(series[::-1], "step"),
    )
    return Chart(
        "active", title, caption + remark, (panel,), tuple(legend[::-1]), table, is_folded=len(run.tensors) > 8
    )


def _shown_updates(run: RunRecord, lines: int) -> list[UpdateCounts]:
    """Return the updates that a figure with this many lines draws, evenly spaced."""
    most = min(MAX_UPDATES, max(_LEAST_UPDATES, _NUMBERS // max(1, lines)))
    return [run.updates[index] for index in evenly_spaced(len(run.updates), most)]


def _sum(below: list[int], counts: list[int]) -> list[int]:
    return [low + count for low, count in zip(below, counts, strict=True)]


def _area(name: str, style: Style, low: Points, high: Points) -> Band:
    """Return the area between two lines of steps, which have their steps at different places."""
    xs = sorted({x for x, _ in low} | {x for x, _ in high})
    doubled = [x for x in xs for _ in range(2)]
    return Band(name, style, doubled, _both_sides(low, xs), _both_sides(high, xs), opacity=1.0)


def _both_sides(points: Points, xs: Sequence[float]) -> list[float]:
    """Return the number just before and just after each place of a line of steps."""
    before: dict[float, float] = {}
    after: dict[float, float] = {}
    for x, y in points:
        before.setdefault(x, y)
        after[x] = y
    found, last = [], points[0][1]
    for x in xs:
        found.append(before.get(x, last))
        last = after.get(x, last)
        found.append(last)
    return found


def densities(run: RunRecord) -> Chart:
    """Draw the density of each tensor over optimizer steps, a line for each, in percent of its positions.

    Args:
        run: what its folder has; without an update nothing is drawn, and the caption says so. At most
            :data:`MAX_LINES` tensors are drawn, evenly spaced.
    """
    title = "Density of each tensor"
    if not run.updates:
        return Chart("densities", title, "No update yet: every tensor is as dense as at the start.")
    lines = evenly_spaced(len(run.tensors), MAX_LINES)
    shown = _shown_updates(run, len(lines))
    steps = [0.0, *(float(update.step) for update in shown)]
    marks, series, legend = [], [], []
    for index in lines:
        tensor, style = run.tensors[index], ramp_style(index, len(run.tensors))
        active = [tensor.active, *(update.active[tensor.name] for update in shown)]
        points = [(step, 100 * count / tensor.size) for step, count in zip(steps, active, strict=True)]
        end = (float(max(1, run.last_step)), points[-1][1])
        marks.append(Line(tensor.name, style, held([*points, end]), width=0.8))
        series.append(series_of(tensor.name, style, points, holds=True))
        legend.append((tensor.name, style))
    caption = "Violet lines are the first tensors, yellow ones the last."
    if len(lines) < len(run.tensors):
        caption += f" {len(lines)} of {len(run.tensors)} tensors are drawn, evenly spaced."
    table, remark = _tensor_table(run, partial(_densities, {one.name: one.size for one in run.tensors}))
    panel = Panel("", _steps(run), Axis("active (% of positions)", low=0.0), marks, readings(series, "step", "%"))
    return Chart("densities", title, caption + remark, (panel,), tuple(legend), table, is_folded=len(lines) > 8)


def _counts(active: Iterable[tuple[str, int]]) -> list[float]:
    return [count for _, count in active]


def _densities(sizes: dict[str, int], active: Iterable[tuple[str, int]]) -> list[float]:
    return [count / sizes[name] for name, count in active]


def _tensor_table(run: RunRecord, values: Callable[[Iterable[tuple[str, int]]], list[float]]) -> tuple[Table, str]:
    """Return a table with a row for the start and for each update, and a column for each tensor.

    Args:
        run: the run.
        values: numbers of a row from the active weights of each tensor by its name.

    Returns:
        The table, and a remark where it does not have all updates.
    """
    names = [tensor.name for tensor in run.tensors]
    start = (0, 0, *values((tensor.name, tensor.active) for tensor in run.tensors))
    most = max(_LEAST_UPDATES, MAX_CELLS // max(1, len(names)))
    kept: list[UpdateCounts] = [run.updates[index] for index in evenly_spaced(len(run.updates), most)]
    rows = [(one.update, one.step, *values((name, one.active[name]) for name in names)) for one in kept]
    remark = (
        "" if len(kept) == len(run.updates) else f" The CSV file has {len(kept):,} of {len(run.updates):,} updates."
    )
    return Table(("update", "step", *names), [start, *rows]), remark


def _line(name: str, style: Style, points: Points, steps: Callable[[Points], Points] = list) -> Line:
    """Return a line; if it has few points, with markers, as a line of one point would be invisible."""
    return Line(name, style, steps(points), points if len(points) <= MAX_MARKERS else ())


def _epochs(run: RunRecord) -> Axis:
    return Axis("epoch", low=0.0, high=max(1, run.epochs[-1].epoch) * 1.02, is_whole=True)


def _steps(run: RunRecord) -> Axis:
    return Axis("optimizer step", low=0.0, high=max(1, run.last_step) * 1.02, is_whole=True)
