"""Figures of the topologies: overlap with the end, explored positions, final sparsity."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.report.charts import (
    Chart,
    Panel,
    Reading,
    Readings,
    Series,
    Table,
    evenly_spaced,
    readings,
)
from sparsecore.report.colours import Style
from sparsecore.report.marks import Band, Dots, Interval, Line, Mark, held
from sparsecore.report.scales import Axis
from sparsecore.study.definition import Arm
from sparsecore.study.report.panels import by_sparsity, families, full_name, legend, spread_out
from sparsecore.study.report.results import StudyResults
from sparsecore.study.topology_history import TopologyHistory, TopologySnapshot

Floats = NDArray[np.float64]

_MARKED = 8
"""Points of a line with a symbol."""
NOTHING_MOVED = "No finished trial has moved a weight."
_BANDS = "Lines are means of the trials, bands reach from the lowest to the highest, over the epochs of their own runs."


@attrs.frozen
class Resolution:
    """The number of points in time that figures draw, as a page with many lines is to stay small.

    Attributes:
        most: points of a line or of a heat map at most.
        numbers: numbers of a figure at most, unless that leaves it with fewer points than 21.
    """

    most: int
    numbers: int

    def points(self, lines: int) -> int:
        """Return the number of points of each of some lines."""
        return min(self.most, max(21, self.numbers // max(1, lines)))


PAGE, FILES = Resolution(121, 2_000), Resolution(241, 40_000)
"""The resolutions of figures in a page and as files."""


def overlap_figure(results: StudyResults, resolution: Resolution = PAGE) -> Chart:
    """Draw the Jaccard index with the topology at the end over epochs.

    Args:
        results: the results so far.
        resolution: number of points in time.

    Returns:
        A figure with a panel for each sparsity: means of the trials, and bands from the lowest to the highest.
    """
    title = "How much of the final topology exists already"
    caption = (
        "Jaccard index of the topology at each epoch with that at the end of its own run: positions active in both, of "
        f"those active in either. {_BANDS}{_not_drawn(results)}"
    )
    axis = Axis("overlap with the end (Jaccard index)", low=0.0)
    return _over_epochs(results, Chart("overlap", title, caption), _Quantity(_overlap, axis), resolution)


def explored_figure(results: StudyResults, resolution: Resolution = PAGE) -> Chart:
    """Draw the share of positions that have been active so far, over epochs (the ITOP rate; Liu et al. 2021).

    Args:
        results: the results so far.
        resolution: number of points in time.

    Returns:
        A figure with a panel for each sparsity, in percent of all positions.
    """
    title = "How much of the dense network has been explored (ITOP rate)"
    caption = f"Share of all positions that have been active at least once until then. {_BANDS}{_not_drawn(results)}"
    axis = Axis("positions ever active (% of all)", low=0.0)
    return _over_epochs(results, Chart("explored", title, caption), _Quantity(_explored, axis, 100.0, "%"), resolution)


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
    return snapshot.explored


@attrs.frozen
class _Quantity:
    """A number of a topology that is drawn over epochs.

    Attributes:
        of: the function that returns it.
        axis: its axis.
        factor: by which it is multiplied in the figure.
        unit: its unit in the figure.
    """

    of: Callable[[TopologySnapshot], float]
    axis: Axis
    factor: float = 1.0
    unit: str = ""


def _over_epochs(
    results: StudyResults,
    chart: Chart,
    quantity: _Quantity,
    resolution: Resolution,
) -> Chart:
    arms = moving(results)
    if not arms:
        return Chart(chart.name, chart.title, NOTHING_MOVED)
    rows: list[tuple[str, float, float, float, float, float]] = []
    points = resolution.points(3 * len(arms) * len(results.study.sparsities))

    def panel(sparsity: float, title: str) -> Panel:
        marks: list[Mark] = []
        series: list[Series] = []
        ends = [1.0]
        for arm in arms:
            histories = results.histories_of(arm, sparsity)
            if not histories:
                continue
            epochs = np.linspace(0, histories[0].epochs, points)
            values = np.array(list(map(partial(at_epochs, epochs=epochs, quantity=quantity.of), histories)))
            spread = (values.mean(axis=0), values.min(axis=0), values.max(axis=0))
            rows.extend((arm.name, sparsity, *numbers) for numbers in np.vstack([epochs, *spread]).T.tolist())
            lines = [(quantity.factor * numbers).tolist() for numbers in spread]
            curve = _Curve(full_name(arm), results.style_of(arm), epochs.tolist(), *lines)
            marks += curve.marks()
            series.append(curve.series())
            ends.append(float(histories[0].epochs))
        x_axis = Axis("epoch", 0.0, max(ends), is_whole=True)
        return Panel(title, x_axis, quantity.axis, marks, readings(series, "epoch", quantity.unit))

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


def _distinct_sparse(results: StudyResults) -> list[Arm]:
    """Return the sparse arms that do not just train the final structure of another arm."""
    moved = {arm.name for arm in moving(results)}
    last = (arms[-1] for arms in families(results.study).values())
    return [arm for arm in last if arm.name in moved or (arm.after is None and not _is_dense(results, arm))]


def _is_dense(results: StudyResults, arm: Arm) -> bool:
    histories = [history for sparsity in results.study.sparsities for history in results.histories_of(arm, sparsity)]
    return all(history.snapshots[-1].active == history.sizes for history in histories)
