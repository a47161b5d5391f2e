"""Figures of the topologies: densities over time, overlap with the end, explored positions, final sparsity."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.report.charts import (
    Chart,
    ColourScale,
    Panel,
    Reading,
    Readings,
    Series,
    Table,
    evenly_spaced,
    readings,
)
from sparsecore.report.colours import Style, ramp_style
from sparsecore.report.heat import Heat
from sparsecore.report.marks import Band, Dots, Interval, Line, Mark, held
from sparsecore.report.scales import Axis
from sparsecore.study.definition import Arm
from sparsecore.study.report.panels import by_sparsity, families, full_name, legend, spread_out
from sparsecore.study.report.results import StudyResults
from sparsecore.study.topology_history import TopologyHistory, TopologySnapshot

Floats = NDArray[np.float64]

_MOST_POINTS, _LEAST_POINTS = 121, 21
"""Points in time of a line or of a heat map."""
_NUMBERS = 3000
"""Numbers that a figure has at most, unless that leaves it with fewer points than the least."""
MAX_LINES = 40
"""Maximum number of tensors with a line of their own."""
_MARKED = 8
"""Points of a line with a symbol."""
_NOTHING_MOVED = "No finished trial has moved a weight."
_BANDS = "Lines are means of the trials, bands reach from the lowest to the highest, over the epochs of their own runs."


def density_heat_maps(results: StudyResults) -> Iterator[Chart]:
    """Draw the density of each tensor over epochs relative to the whole network.

    Args:
        results: the results so far.

    Yields:
        A figure for each sparsity, with a panel for each arm that has moved a weight: the mean over its trials, on a
        logarithmic scale. Without such an arm nothing is drawn, and the caption says so.
    """
    for sparsity in results.study.sparsities:
        title = f"Active parameters per tensor over time, sparsity {sparsity:g}"
        name = f"active-at-{sparsity:g}".replace(".", "-")
        shown = _moving_at(results, sparsity)
        yield _heat_map(name, title, shown) if shown else Chart(name, title, _NOTHING_MOVED)


def density_lines(results: StudyResults) -> Iterator[Chart]:
    """Draw the density of each tensor over epochs, a line for each tensor, in percent of its positions.

    Args:
        results: the results so far.

    Yields:
        A figure for each sparsity, with a panel for each arm that has moved a weight. Without such an arm nothing is
        drawn, and the caption says so.
    """
    for sparsity in results.study.sparsities:
        title = f"Density of each tensor over time, sparsity {sparsity:g}"
        name = f"density-at-{sparsity:g}".replace(".", "-")
        shown = _moving_at(results, sparsity)
        yield _lines(name, title, shown) if shown else Chart(name, title, _NOTHING_MOVED)


def overlap_figure(results: StudyResults) -> Chart:
    """Draw the Jaccard index with the topology at the end over epochs.

    Args:
        results: the results so far.

    Returns:
        A figure with a panel for each sparsity: means of the trials, and bands from the lowest to the highest.
    """
    title = "How much of the final topology exists already"
    caption = (
        "Jaccard index of the topology at each epoch with that at the end of its own run: positions active in both, of "
        f"those active in either. {_BANDS}{_not_drawn(results)}"
    )
    axis = Axis("overlap with the end (Jaccard index)", low=0.0)
    return _over_epochs(results, Chart("overlap", title, caption), axis, "", _overlap)


def explored_figure(results: StudyResults) -> Chart:
    """Draw the share of positions that have been active so far, over epochs (the ITOP rate; Liu et al. 2021).

    Args:
        results: the results so far.

    Returns:
        A figure with a panel for each sparsity, in percent of all positions.
    """
    title = "How much of the dense network has been explored (ITOP rate)"
    caption = f"Share of all positions that have been active at least once until then. {_BANDS}{_not_drawn(results)}"
    axis = Axis("positions ever active (% of all)", low=0.0)
    return _over_epochs(results, Chart("explored", title, caption), axis, "%", _explored)


def final_sparsity_figure(results: StudyResults) -> Chart:
    """Draw the sparsity of each tensor at the end of each trial.

    Args:
        results: the results so far.

    Returns:
        A figure with a panel for each sparsity, in percent of the tensor's positions; arms that are dense, or train
        the final structure of another arm, are left out.
    """
    title = "Sparsity of each tensor at the end"
    sparsities = results.study.sparsities
    arms = [arm for arm in _distinct_sparse(results) if any(results.histories_of(arm, s) for s in sparsities)]
    if not arms:
        return Chart("final", title, "No trial of a sparse network has finished yet.")
    names = next(history.tensors for trial, history in results.histories.items() if trial.arm == arms[0].name)

    def panel(sparsity: float, heading: str) -> Panel:
        marks: list[Mark] = []
        rows = []
        for shift, arm in zip(spread_out(len(arms), 0.6), arms, strict=True):
            ends = _final_sparsities(results, arm, sparsity)
            if not ends:
                continue
            style, means = results.style_of(arm), np.mean(ends, axis=0)
            marks += _ends(full_name(arm), style, ends, means, shift)
            rows.append(Reading(full_name(arm), style, means.tolist(), [f"{mean:.4f}" for mean in means]))
        axis = Axis("", categories=names, symbols=len(arms), is_sparse=True)
        return Panel(
            heading, Axis("sparsity (% of positions)"), axis, marks, Readings("y", range(len(names)), names, rows, "%")
        )

    caption = (
        "Symbols are means of the trials, faint circles single trials; arms are drawn one below the other. Arms that "
        "train a final structure have that of their arm."
    )
    table = Table(("arm", "sparsity", "trial", "tensor", "sparsity_of_tensor"), list(_final_rows(results, arms)))
    shown = legend([full_name(arm) for arm in arms], {full_name(arm): results.style_of(arm) for arm in arms})
    return Chart("final", title, caption, by_sparsity(results.study, panel), shown, table)


def _final_sparsities(results: StudyResults, arm: Arm, sparsity: float) -> list[Floats]:
    """Return the sparsity of each tensor at the end of each trial, in percent."""
    histories = results.histories_of(arm, sparsity)
    return [100 * (1 - np.array(one.snapshots[-1].active) / one.sizes) for one in histories]


def _ends(name: str, style: Style, ends: Sequence[Floats], means: Floats, shift: float) -> Iterator[Mark]:
    for end in ends:
        yield Dots(name, style, [(float(x), row + shift) for row, x in enumerate(end)], is_open=False)
    for row, x in enumerate(means):
        mean = (float(x), row + shift)
        yield Interval(name, style, mean, mean, mean)


def _final_rows(results: StudyResults, arms: Sequence[Arm]) -> Iterator[tuple[str, float | None, int, str, float]]:
    for trial, history in results.histories.items():
        if trial.arm in {arm.name for arm in arms}:
            for tensor, active, size in zip(history.tensors, history.snapshots[-1].active, history.sizes, strict=True):
                yield trial.arm, trial.sparsity, trial.number, tensor, 1 - active / size


def moving(results: StudyResults) -> list[Arm]:
    """Return the arms whose topologies changed.

    Args:
        results: the results so far; an arm without a finished trial is left out.

    Returns:
        The arms in the order of the study; of a sweep, only the last arm, if that one has moved a weight.
    """
    last = [arms[-1] for arms in families(results.study).values()]
    moved = {trial.arm for trial, history in results.histories.items() if history.updates}
    return [arm for arm in last if arm.name in moved]


def at_epochs(
    history: TopologyHistory, epochs: Floats, quantity: Callable[[TopologySnapshot], float | tuple[int, ...]]
) -> Floats:
    """Return a quantity of the topology at some epochs; that after an update holds until the next one.

    Args:
        history: history of a trial.
        epochs: float64 of shape (points,), ascending.
        quantity: returns a number of a snapshot, or one for each tensor.

    Returns:
        float64 of shape (points,) or (points, tensors).
    """
    begins = np.array([snapshot.epoch for snapshot in history.snapshots])
    values = np.array([quantity(snapshot) for snapshot in history.snapshots])
    held: Floats = values[np.searchsorted(begins, epochs, side="right") - 1]
    return held


def _overlap(snapshot: TopologySnapshot) -> float:
    return snapshot.overlap


def _explored(snapshot: TopologySnapshot) -> float:
    return 100 * snapshot.explored


def _active(snapshot: TopologySnapshot) -> tuple[int, ...]:
    return snapshot.active


def _points(lines: int) -> int:
    """Return the number of points in time of each line, so that a page with many lines stays small."""
    return min(_MOST_POINTS, max(_LEAST_POINTS, _NUMBERS // max(1, lines)))


def _over_epochs(
    results: StudyResults, chart: Chart, axis: Axis, unit: str, quantity: Callable[[TopologySnapshot], float]
) -> Chart:
    arms = moving(results)
    if not arms:
        return Chart(chart.name, chart.title, _NOTHING_MOVED)
    rows: list[tuple[str, float, float, float, float, float]] = []
    points = _points(len(arms) * len(results.study.sparsities))

    def panel(sparsity: float, title: str) -> Panel:
        marks: list[Mark] = []
        series: list[Series] = []
        ends = [1.0]
        for arm in arms:
            histories = results.histories_of(arm, sparsity)
            if not histories:
                continue
            epochs = np.linspace(0, histories[0].epochs, points)
            values = np.array(list(map(partial(at_epochs, epochs=epochs, quantity=quantity), histories)))
            lines = [one.tolist() for one in (epochs, values.mean(axis=0), values.min(axis=0), values.max(axis=0))]
            curve = _Curve(full_name(arm), results.style_of(arm), *lines)
            rows.extend((arm.name, sparsity, *numbers) for numbers in curve.rows())
            marks += curve.marks()
            series.append(curve.series())
            ends.append(float(histories[0].epochs))
        x_axis = Axis("epoch", 0.0, max(ends), is_whole=True)
        return Panel(title, x_axis, axis, marks, readings(series, "epoch", unit))

    panels = by_sparsity(results.study, panel)
    shown = legend([full_name(arm) for arm in arms], {full_name(arm): results.style_of(arm) for arm in arms})
    head = ("arm", "sparsity", "epoch", f"mean_{chart.name}", f"lowest_{chart.name}", f"highest_{chart.name}")
    return Chart(chart.name, chart.title, chart.caption, panels, shown, Table(head, rows))


@attrs.frozen
class _Curve:
    """A quantity over epochs: the mean of the trials, and the lowest and the highest.

    Attributes:
        name: name of the series.
        style: its look.
        epochs: points in time.
        means: the mean at each.
        low: the lowest at each.
        high: the highest at each.
    """

    name: str
    style: Style
    epochs: Sequence[float]
    means: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def rows(self) -> Iterator[tuple[float, float, float, float]]:
        return zip(self.epochs, self.means, self.low, self.high, strict=True)

    def marks(self) -> Iterator[Mark]:
        points = list(zip(self.epochs, self.means, strict=True))
        if self.low != self.high:
            yield Band(self.name, self.style, self.epochs, self.low, self.high)
        marked = [points[index] for index in evenly_spaced(len(points), _MARKED)]
        yield Line(self.name, self.style, held(points), marked)

    def series(self) -> Series:
        points = [
            (epoch, mean, f"{mean:.4g}" if low == high else f"{mean:.4g} ({low:.4g} to {high:.4g})")
            for epoch, mean, low, high in self.rows()
        ]
        return Series(self.name, self.style, points, holds=True)


def _not_drawn(results: StudyResults) -> str:
    """Describe which arms are not drawn, and why."""
    drawn = {arm.title for arm in moving(results)}
    still = [name for name in families(results.study) if name not in drawn]
    sweeps = [name for name, arms in families(results.study).items() if len(arms) > 1 and name in drawn]
    last = "".join(f" Of {name!r}, only the last fraction is drawn." for name in sweeps)
    return last + (f" Not drawn, because nothing moved or no trial has finished: {', '.join(still)}." if still else "")


Shown = Sequence[tuple[Arm, Sequence[TopologyHistory]]]


def _moving_at(results: StudyResults, sparsity: float) -> Shown:
    """Return the arms whose topologies changed, with their histories at a sparsity."""
    return [(arm, histories) for arm in moving(results) if (histories := results.histories_of(arm, sparsity))]


def _densities(histories: Sequence[TopologyHistory], epochs: Floats) -> Floats:
    """Return the share of active positions of each tensor, the mean of all trials; shape (tensors, points)."""
    counts = np.mean([at_epochs(history, epochs, _active) for history in histories], axis=0).T
    densities: Floats = counts / np.array(histories[0].sizes)[:, None]
    return densities


def _times(shown: Shown) -> list[Floats]:
    """Return the points in time of each arm: as many for all, over the epochs of its own runs."""
    lines = len(shown) * len(shown[0][1][0].tensors)
    return [np.linspace(0, histories[0].epochs, _points(lines)) for _, histories in shown]


def _tensor_table(shown: Shown, times: Sequence[Floats], numbers: Sequence[Floats]) -> Table:
    """Return a table with a row for each arm and point in time, and a column for each tensor."""
    rows = [
        (arm.name, *row)
        for (arm, _), epochs, of_arm in zip(shown, times, numbers, strict=True)
        for row in np.vstack([epochs, of_arm]).T.tolist()
    ]
    return Table(("arm", "epoch", *shown[0][1][0].tensors), rows)


def _lines(name: str, title: str, shown: Shown) -> Chart:
    names = shown[0][1][0].tensors
    lines, times = evenly_spaced(len(names), MAX_LINES), _times(shown)
    densities = [_densities(histories, epochs) for (_, histories), epochs in zip(shown, times, strict=True)]
    styles = {names[line]: ramp_style(line, len(names)) for line in lines}
    panels = []
    for (arm, _), epochs, of_arm in zip(shown, times, densities, strict=True):
        marks, series = [], []
        for line in lines:
            points = list(zip(epochs.tolist(), (100 * of_arm[line]).tolist(), strict=True))
            marks.append(Line(names[line], styles[names[line]], held(points), width=0.8))
            stops = [(x, y, f"{y:.4g}") for x, y in points]
            series.append(Series(names[line], styles[names[line]], stops, holds=True))
        x_axis = Axis("epoch", 0.0, float(epochs[-1]), is_whole=True)
        y_axis = Axis("active (% of positions)", low=0.0)
        panels.append(Panel(full_name(arm), x_axis, y_axis, marks, readings(series, "epoch", "%")))
    caption = (
        "Lines are means of the trials, over the epochs of their own runs. Violet lines are the first tensors, yellow "
        "ones the last."
    )
    if len(lines) < len(names):
        caption += f" {len(lines)} of {len(names)} tensors are drawn, evenly spaced."
    table = _tensor_table(shown, times, densities)
    shown_names = legend(list(styles), styles)
    return Chart(name, title, caption, tuple(panels), shown_names, table, is_folded=len(lines) > 8)


def _heat_map(name: str, title: str, shown: Shown) -> Chart:
    times = _times(shown)
    heats = [_relative_densities(histories, epochs) for (_, histories), epochs in zip(shown, times, strict=True)]
    limit = max(0.1, *(float(np.nanmax(np.abs(heat))) for heat in heats))
    names = shown[0][1][0].tensors
    panels = []
    for (arm, _), epochs, heat in zip(shown, times, heats, strict=True):
        rows = [
            _heat_reading(tensor, row, numbers) for row, (tensor, numbers) in enumerate(zip(names, heat, strict=True))
        ]
        heads = [f"epoch {epoch:.4g}: density / that of the network" for epoch in epochs]
        x_axis, y_axis = (
            Axis("epoch", 0.0, float(epochs[-1]), is_whole=True),
            Axis("", categories=names, is_sparse=True),
        )
        mark = Heat(heat.tolist(), float(epochs[-1]), limit)
        panels.append(Panel(full_name(arm), x_axis, y_axis, [mark], Readings("x", epochs.tolist(), heads, rows)))
    caption = (
        "The share of active positions of each tensor, relative to that of the whole network; means of the trials, "
        "over the epochs of their own runs. Orange tensors are denser than the network, violet ones sparser; the scale "
        "is logarithmic."
    )
    ends = [f"{2**end:.3g}" for end in (-limit, limit)]
    scale = ColourScale(ends[0], ends[1], "times the density of the network")
    table = _tensor_table(shown, times, [np.nan_to_num(2**heat) for heat in heats])
    return Chart(name, title, caption, tuple(panels), table=table, scale=scale)


def _heat_reading(tensor: str, row: int, numbers: Floats) -> Reading:
    texts = ["empty" if np.isnan(log2) else f"{2**log2:.3g}" for log2 in numbers]
    return Reading(tensor, None, [float(row)] * len(texts), texts)


def _relative_densities(histories: Sequence[TopologyHistory], epochs: Floats) -> Floats:
    """Return log2 of each tensor's density relative to the network, NaN if it is empty; shape (tensors, points)."""
    counts = np.mean([at_epochs(history, epochs, _active) for history in histories], axis=0).T
    sizes = np.array(histories[0].sizes)[:, None]
    with np.errstate(divide="ignore"):  # a tensor may have lost all its weights
        log2: Floats = np.log2(counts / sizes * sizes.sum() / counts.sum(axis=0))
    return np.where(np.isfinite(log2), log2, np.nan)


def _distinct_sparse(results: StudyResults) -> list[Arm]:
    """Return the sparse arms that do not just train the final structure of another arm."""
    moved = {arm.name for arm in moving(results)}
    last = (arms[-1] for arms in families(results.study).values())
    return [arm for arm in last if arm.name in moved or (arm.after is None and not _is_dense(results, arm))]


def _is_dense(results: StudyResults, arm: Arm) -> bool:
    histories = [history for sparsity in results.study.sparsities for history in results.histories_of(arm, sparsity)]
    return all(history.snapshots[-1].active == history.sizes for history in histories)
