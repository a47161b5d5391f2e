"""Figures of a study's training: accuracies (as bars, over a sweep or over sparsity) and learning rates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sparsecore.report.drawing import evenly_spaced, hover
from sparsecore.report.figures import whole_numbers
from sparsecore.study.comparison import CellComparison, mean_and_spread
from sparsecore.study.definition import Arm, FigureKind
from sparsecore.study.report.panels import (
    PanelGrid,
    StudyFigure,
    by_sparsity,
    draw_panels,
    families,
    full_name,
    legend_below,
    set_left_label,
    spread_out,
)
from sparsecore.study.report.results import StudyResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACCURACY = "test accuracy (% of images)"
_MAX_POINTS = 1000
_MAX_MARKERS = 40
_SPREAD = "mean ± standard deviation of the trials"

Finish = Callable[["Figure", Sequence["Axes"]], None]


def accuracy_figure(results: StudyResults) -> StudyFigure:
    """Draw the test accuracies in percent, in the kind of figure that the study asks for.

    Args:
        results: the results so far; without a finished trial nothing is drawn, and the caption says so.
    """
    if not any(row.accuracies for row in results.rows):
        return StudyFigure("accuracy", results.study.title, "No trial has finished yet.")
    return _FIGURES[results.study.figure](results)


def _bars(results: StudyResults) -> StudyFigure:
    """Draw a bar for each arm, in a panel for each sparsity, as in figure 1a of Mostafa & Wang (2018)."""

    def paint(axes: "Axes", number: int) -> None:
        rows = [row for row in results.at(results.study.sparsities[number]) if row.accuracies]
        for x, row in enumerate(rows):
            style, name, mean = results.style_of(row.cell.arm), full_name(row.cell.arm), fmean(row.accuracies)
            axes.bar(x, mean, width=0.7, color=style.colour, alpha=0.85)
            _error_bar(axes, x, row.accuracies, color="black", capsize=6)
            beside = [x + 0.2] * len(row.accuracies)
            axes.plot(beside, row.accuracies, "o", color="white", mec="black", markersize=5)
            hover(axes, beside, row.accuracies, [f"{name}, one trial: {one:.2f} %" for one in row.accuracies])
            hover(axes, [x], [mean], [f"{name}: {mean_and_spread(row.accuracies)} %"])
        axes.set_xticks(range(len(rows)), [fill(full_name(row.cell.arm), 12) for row in rows], fontsize=11)
        axes.set_xlabel("arm")
        axes.grid(visible=False, axis="x")

    def finish(_: "Figure", panels: Sequence["Axes"]) -> None:
        for axes, sparsity in zip(panels, results.study.sparsities, strict=True):
            found = [accuracy for row in results.at(sparsity) for accuracy in row.accuracies]
            bottom, top = _limits(found or [100.0])
            axes.set_ylim(bottom, top)
            axes.set_ylabel(_accuracy_label(bottom))

    caption = f"Bars: {_SPREAD}; circles: single trials. Each sparsity has an axis of its own."
    arms = max(2, len(results.study.arms))
    # with one axis a single arm that hardly learns at one sparsity would hide the differences at the others
    grid = by_sparsity(results.study, 2 if arms < 7 else 1, (1.15 * arms + 1.2, 4.4), extra=(0.4, 0.9), shared="none")
    return _draw(results, caption, grid, paint, finish)


def _sweep(results: StudyResults) -> StudyFigure:
    """Draw accuracy over the fractions of a sweep, as in figures 1b and 1c, with bands for the other arms."""

    def paint(axes: "Axes", number: int) -> None:
        rows = [row for row in results.at(results.study.sparsities[number]) if row.accuracies]
        for name, arms in families(results.study).items():
            swept = [row for row in rows if row.cell.arm in arms and row.cell.arm.fraction is not None]
            epochs = [(row.cell.arm.fraction or 0.0) * results.epochs for row in swept]
            _line(axes, epochs, [row.accuracies for row in swept], results, arms[0], f"{name} at epoch e")
        for row in (row for row in rows if row.cell.arm.fraction is None):
            _band(axes, row, results)
        axes.set_xlabel(f"epoch e, of {results.epochs:,}")

    caption = f"Symbols: {_SPREAD}, at the epoch e of the arm. Bands: the same of arms without an epoch e."
    return _draw(results, caption, by_sparsity(results.study, 2, (5.2, 4.0)), paint, _finish(results, legend_below))


def _sparsities(results: StudyResults) -> StudyFigure:
    """Draw accuracy over sparsity, with a line for each arm."""
    sparsities = results.study.sparsities

    def paint(axes: "Axes", number: int) -> None:  # noqa: ARG001
        lines = families(results.study)
        for shift, (name, arms) in zip(spread_out(len(lines), _free_width(sparsities)), lines.items(), strict=True):
            of_family = (row for row in results.rows if row.cell.arm in arms and row.accuracies)
            rows = [row for row in of_family if row.cell.sparsity is not None]
            x = [(row.cell.sparsity or 0.0) + shift for row in rows]
            _line(axes, x, [row.accuracies for row in rows], results, arms[0], name)
        for row in (row for row in results.rows if row.cell.sparsity is None and row.accuracies):
            _band(axes, row, results)
        axes.set_xticks(sparsities, [f"{sparsity:g}" for sparsity in sparsities])
        axes.set_xlabel("sparsity (fraction of weights that are zero)")

    caption = f"Symbols and bands: {_SPREAD}. Symbols of the same sparsity are drawn side by side."
    grid = PanelGrid(("",), 1, (8.4, 5.0))
    return _draw(results, caption, grid, paint, _finish(results, legend_below))


_FIGURES: Mapping[FigureKind, Callable[[StudyResults], StudyFigure]] = MappingProxyType(
    {"bars": _bars, "sweep": _sweep, "sparsities": _sparsities}
)


def learning_rate_figure(results: StudyResults) -> StudyFigure:
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
        return StudyFigure("rate", title, "No trial has finished yet.")

    def paint(axes: "Axes", number: int) -> None:  # noqa: ARG001
        for points, arms in arms_by_rates.items():
            name, style = ", ".join(map(full_name, arms)), results.style_of(arms[0])
            shown = [points[index] for index in evenly_spaced(len(points), _MAX_POINTS)]
            epochs, rates = [epoch for epoch, _ in shown], [rate for _, rate in shown]
            marker: dict[str, Any] = {"marker": style.marker} if len(shown) <= _MAX_MARKERS else {}
            axes.plot(epochs, rates, color=style.colour, label=fill(name, 60), drawstyle="steps-pre", **marker)
            hover(axes, epochs, rates, [f"{name}: {rate:.4g} at epoch {epoch:,}" for epoch, rate in shown])
        axes.set_xlabel("epoch")
        axes.set_xlim(0, 1.02 * max(points[-1][0] for points in arms_by_rates))
        whole_numbers(axes.xaxis)
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0)

    caption = "At the last step of each epoch, of one trial of each arm; all trials of an arm have the same."
    grid = PanelGrid(("",), 1, (8.4, 3.2))
    return draw_panels(results.protocol, "rate", title, caption, grid, paint, _legend_in_one_column)


def _legend_in_one_column(figure: "Figure", panels: Sequence["Axes"]) -> None:
    legend_below(figure, panels, columns=1)


def _draw(
    results: StudyResults, caption: str, grid: PanelGrid, paint: Callable[["Axes", int], None], finish: Finish
) -> StudyFigure:
    return draw_panels(results.protocol, "accuracy", results.study.title, caption, grid, paint, finish)


def _line(
    axes: "Axes", x: Sequence[float], samples: Sequence[Sequence[float]], results: StudyResults, arm: Arm, name: str
) -> None:
    if not x:
        return
    style = results.style_of(arm)
    points = sorted(zip(x, samples, strict=True))
    xs, means = [at for at, _ in points], [fmean(sample) for _, sample in points]
    axes.plot(xs, means, color=style.colour, marker=style.marker, markersize=7, label=name)
    hover(axes, xs, means, [f"{name}: {mean_and_spread(sample)} %" for _, sample in points])
    for at, sample in points:
        _error_bar(axes, at, sample, color=style.colour, capsize=4)


def _band(axes: "Axes", row: CellComparison, results: StudyResults) -> None:
    """Draw a horizontal line at the mean, and a band of one standard deviation around it."""
    colour, mean, name = results.style_of(row.cell.arm).colour, fmean(row.accuracies), row.cell.arm.title
    std = stdev(row.accuracies) if len(row.accuracies) > 1 else 0.0
    axes.axhline(mean, color=colour, linestyle=(0, (5, 2)), label=name)
    text = f"{name}: {mean_and_spread(row.accuracies)} %"
    hover(axes, [0.5], [mean], [text], transform=axes.get_yaxis_transform())  # in the middle of the axes
    axes.axhspan(mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)


def _error_bar(axes: "Axes", x: float, sample: Sequence[float], **style: Any) -> None:
    if len(sample) > 1:
        axes.errorbar([x], [fmean(sample)], yerr=[stdev(sample)], fmt="none", linewidth=1.8, **style)


def _finish(results: StudyResults, *further: Finish) -> Finish:
    """Return a function that sets the y-axis, which all panels share, around all trials, then calls the others."""
    bottom, top = _limits(accuracy for row in results.rows for accuracy in row.accuracies)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        panels[0].set_ylim(bottom, top)
        set_left_label(panels, _accuracy_label(bottom))
        for function in further:
            function(figure, panels)

    return finish


def _accuracy_label(bottom: float) -> str:
    return _ACCURACY + (f"\nthe axis begins at {bottom:g}" if bottom else "")


def _limits(accuracies: Iterable[float]) -> tuple[float, float]:
    """Return limits around all accuracies, from a multiple of a half, as from zero differences would be invisible."""
    lowest, highest = min(accuracies := list(accuracies)), max(accuracies)
    margin = max(0.4, 0.15 * (highest - lowest))
    bottom = (2 * (lowest - margin)) // 1 / 2
    return (bottom if bottom > highest / 4 else 0.0), min(101.0, highest + margin)


def _free_width(sparsities: Sequence[float]) -> float:
    """Return a fifth of the smallest distance between two sparsities."""
    ordered = sorted(sparsities)
    return 0.2 * min((later - earlier for earlier, later in pairwise(ordered)), default=0.01)
