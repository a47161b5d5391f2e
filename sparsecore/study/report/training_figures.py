"""Figures of a study's training: accuracies (as bars, over a sweep or over sparsity) and learning rates."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from types import MappingProxyType

import attrs

from sparsecore.report.charts import (
    MAX_POINTS,
    Chart,
    Panel,
    Reading,
    Readings,
    Series,
    Table,
    evenly_spaced,
    readings,
    series_of,
)
from sparsecore.report.colours import Style
from sparsecore.report.marks import MAX_MARKERS, Bar, Dots, Interval, Level, Line, Mark, held_before
from sparsecore.report.scales import Axis
from sparsecore.study.comparison import CellComparison, mean_and_spread
from sparsecore.study.definition import Arm, FigureKind
from sparsecore.study.report.panels import by_sparsity, families, full_name, spread_out
from sparsecore.study.report.results import StudyResults

_ACCURACY = "test accuracy (% of images)"
_MOST_TRIALS = 20
"""Trials that a tooltip lists."""
_SPREAD = "mean ± standard deviation of the trials"


def accuracy_figure(results: StudyResults) -> Chart:
    """Draw the test accuracies in percent, in the kind of figure that the study asks for.

    Args:
        results: the results so far; without a finished trial nothing is drawn, and the caption says so.
    """
    if not any(row.accuracies for row in results.rows):
        return Chart("accuracy", results.study.title, "No trial has finished yet.")
    return attrs.evolve(_FIGURES[results.study.figure](results), table=_accuracy_table(results))


def _accuracy_table(results: StudyResults) -> Table:
    rows = [
        (trial.arm, trial.sparsity, results.study.arm(trial.arm).fraction, trial.number, accuracy)
        for trial, accuracy in results.accuracies
    ]
    return Table(("arm", "sparsity", "fraction", "trial", "test_accuracy"), rows)


def _bars(results: StudyResults) -> Chart:
    """Draw a bar for each arm, in a panel for each sparsity, as in figure 1a of Mostafa & Wang (2018)."""

    def panel(sparsity: float, title: str) -> Panel:
        rows = [row for row in results.at(sparsity) if row.accuracies]
        bottom, top = _limits([accuracy for row in rows for accuracy in row.accuracies] or [100.0])
        names = tuple(full_name(row.cell.arm) for row in rows)
        return Panel(
            title,
            Axis(_accuracy_label(bottom), low=bottom, high=top),
            Axis("", categories=names or ("no finished trial",)),
            [mark for place, row in enumerate(rows) for mark in _bar(place, row, results.style_of(row.cell.arm))],
            Readings("y", list(range(len(rows))), names, _bar_readings(rows), "%"),
        )

    caption = f"Bars: {_SPREAD}; circles: single trials. Each sparsity has an axis of its own."
    return Chart("accuracy", results.study.title, caption, by_sparsity(results.study, panel), is_wide=True)


def _bar(place: int, row: CellComparison, style: Style) -> Iterator[Mark]:
    mean = fmean(row.accuracies)
    half = stdev(row.accuracies) if len(row.accuracies) > 1 else 0.0
    yield Bar("", style, place, mean)
    yield Dots("", style, [(accuracy, place + 0.12) for accuracy in row.accuracies])
    yield Interval("", style, (mean, place), (mean - half, place), (mean + half, place), in_ink=True)


def _bar_readings(rows: Sequence[CellComparison]) -> list[Reading]:
    """Return the lines of a bar's tooltip: mean and spread, then the single trials."""
    means = [fmean(row.accuracies) for row in rows]
    spreads = [mean_and_spread(row.accuracies) for row in rows]
    trials = [", ".join(f"{accuracy:.2f}" for accuracy in row.accuracies[:_MOST_TRIALS]) for row in rows]
    return [
        Reading("mean ± standard deviation", None, means, spreads),
        Reading("trials", None, [None] * len(rows), trials),
    ]


def _sweep(results: StudyResults) -> Chart:
    """Draw accuracy over the fractions of a sweep, as in figures 1b and 1c, with bands for the other arms."""
    swept = {name: arms for name, arms in families(results.study).items() if arms[0].fraction is not None}
    bottom, top = _limits(accuracy for row in results.rows for accuracy in row.accuracies)

    def panel(sparsity: float, title: str) -> Panel:
        rows = [row for row in results.at(sparsity) if row.accuracies]
        lines = []
        for name, arms in swept.items():
            own = [row for row in rows if row.cell.arm in arms]
            points = sorted(((row.cell.arm.fraction or 0.0) * results.epochs, row.accuracies) for row in own)
            lines.append(_SampleLine(name, results.style_of(arms[0]), points))
        levels = [row for row in rows if row.cell.arm.fraction is None]
        axis = Axis(f"epoch e at which updates end, of {results.epochs:,}", is_whole=True)
        return _lines_and_levels(title, axis, Axis(_accuracy_label(bottom), bottom, top), lines, levels, results)

    caption = f"Symbols: {_SPREAD}, at the epoch e of the arm. Bands: the same of arms without an epoch e."
    panels = by_sparsity(results.study, panel)
    return Chart("accuracy", results.study.title, caption, panels, _all_arms(results), is_wide=True)


def _sparsities(results: StudyResults) -> Chart:
    """Draw accuracy over sparsity, with a line for each arm."""
    bottom, top = _limits(accuracy for row in results.rows for accuracy in row.accuracies)
    sparsities = results.study.sparsities
    lines = []
    for name, arms in families(results.study).items():
        own = [row for row in results.rows if row.cell.arm in arms and row.accuracies]
        points = sorted((row.cell.sparsity, row.accuracies) for row in own if row.cell.sparsity is not None)
        lines.append(_SampleLine(name, results.style_of(arms[0]), points))
    levels = [row for row in results.rows if row.cell.sparsity is None and row.accuracies]
    distance = 0.2 * min((later - earlier for earlier, later in pairwise(sorted(sparsities))), default=0.01)
    axis = Axis(
        "sparsity (fraction of weights that are zero)",
        min(sparsities) - distance,
        max(sparsities) + distance,
        labelled=tuple(sorted(sparsities)),
    )
    y_axis = Axis(_accuracy_label(bottom), bottom, top)
    panel = _lines_and_levels("", axis, y_axis, lines, levels, results, spread=distance)
    caption = f"Symbols and bands: {_SPREAD}. Symbols of the same sparsity are drawn side by side."
    return Chart("accuracy", results.study.title, caption, (panel,), _all_arms(results), is_wide=True)


_FIGURES: Mapping[FigureKind, Callable[[StudyResults], Chart]] = MappingProxyType(
    {"bars": _bars, "sweep": _sweep, "sparsities": _sparsities}
)


@attrs.frozen
class _SampleLine:
    """A line through the means of samples.

    Attributes:
        name: name of the series.
        style: its look.
        points: number on the horizontal axis and accuracies in percent of each sample.
    """

    name: str
    style: Style
    points: Sequence[tuple[float, Sequence[float]]]

    def marks(self, shift: float) -> Iterator[Mark]:
        means = [(x + shift, fmean(sample)) for x, sample in self.points]
        yield Line(self.name, self.style, means)
        for (x, mean), (_, sample) in zip(means, self.points, strict=True):
            half = stdev(sample) if len(sample) > 1 else 0.0
            yield Interval(self.name, self.style, (x, mean), (x, mean - half), (x, mean + half))

    def series(self) -> Series:
        points = [(x, fmean(sample), mean_and_spread(sample)) for x, sample in self.points]
        return Series(self.name, self.style, points)


def _lines_and_levels(
    title: str,
    x_axis: Axis,
    y_axis: Axis,
    lines: Sequence[_SampleLine],
    levels: Sequence[CellComparison],
    results: StudyResults,
    spread: float = 0.0,
) -> Panel:
    marks: list[Mark] = []
    for row in levels:
        half = stdev(row.accuracies) if len(row.accuracies) > 1 else 0.0
        marks.append(Level(row.cell.arm.title, results.style_of(row.cell.arm), fmean(row.accuracies), half))
    for shift, line in zip(spread_out(len(lines), spread), lines, strict=True):
        marks += line.marks(shift)
    stops = sorted({x for line in lines for x, _ in line.points}) or [0.0]
    series = [line.series() for line in lines]
    for row in levels:
        point = (stops[0], fmean(row.accuracies), mean_and_spread(row.accuracies))
        series.append(Series(row.cell.arm.title, results.style_of(row.cell.arm), [point], holds=True))
    name = "sparsity" if spread else "epoch"
    return Panel(title, x_axis, y_axis, marks, readings(series, name, "%"))


def _all_arms(results: StudyResults) -> tuple[tuple[str, Style], ...]:
    return tuple(results.styles.items())


def learning_rate_figure(results: StudyResults) -> Chart:
    """Draw the learning rate at the last step of each epoch, with one line for arms that have the same.

    Args:
        results: the results so far, of which one finished trial of each arm is drawn; of a sweep, its last arm.
    """
    title = "Learning rate"
    arms_by_rates: dict[tuple[tuple[int, float], ...], list[Arm]] = {}
    for arms in families(results.study).values():
        if rates := results.learning_rates.get(arms[-1].name):
            arms_by_rates.setdefault(rates, []).append(arms[-1])
    if not arms_by_rates:
        return Chart("rate", title, "No trial has finished yet.")
    marks, series, legend = [], [], []
    for rates, arms in arms_by_rates.items():
        name, style = ", ".join(map(full_name, arms)), results.style_of(arms[0])
        shown = [(float(rates[index][0]), rates[index][1]) for index in evenly_spaced(len(rates), MAX_POINTS)]
        marks.append(Line(name, style, held_before(shown), shown if len(shown) <= MAX_MARKERS else ()))
        series.append(series_of(name, style, shown))
        legend.append((name, style))
    end = 1.02 * max(rates[-1][0] for rates in arms_by_rates)
    axis, y_axis = Axis("epoch", 0.0, end, is_whole=True), Axis("learning rate", low=0.0)
    rows = [(arm.name, *one) for rates, arms in arms_by_rates.items() for arm in arms for one in rates]
    caption = "At the last step of each epoch, of one trial of each arm; all trials of an arm have the same."
    panel = Panel("", axis, y_axis, marks, readings(series, "epoch"))
    table = Table(("arm", "epoch", "learning_rate"), rows)
    return Chart("rate", title, caption, (panel,), tuple(legend), table)


def _accuracy_label(bottom: float) -> str:
    return _ACCURACY + (f"; the axis begins at {bottom:g}" if bottom else "")


def _limits(accuracies: Iterable[float]) -> tuple[float, float]:
    """Return limits around all accuracies, from a multiple of a half, as from zero differences would be invisible."""
    lowest, highest = min(accuracies := list(accuracies)), max(accuracies)
    margin = max(0.4, 0.25 * (highest - lowest))
    bottom = (2 * (lowest - margin)) // 1 / 2
    return (bottom if bottom > highest / 4 else 0.0), min(101.0, highest + margin)
