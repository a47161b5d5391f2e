"""The figure that answers a study's question: bars, accuracy over places, or accuracy over sparsity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sparsecore.report.drawing import hover
from sparsecore.study.arms import Arm, FigureKind
from sparsecore.study.comparison import CellComparison, mean_and_spread
from sparsecore.study.report.contents import StudyResults
from sparsecore.study.report.panels import PanelGrid, StudyFigure, apart, by_sparsity, draw_panels, legend_below
from sparsecore.study.report.styles import families, family, full_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACCURACY = "test accuracy (% of images)"
_SPREAD = "mean ± standard deviation of the trials"


def accuracy_figure(results: StudyResults) -> StudyFigure:
    """The figure that the study asks for."""
    if not any(row.ours for row in results.rows):
        return StudyFigure("accuracy", results.study.title, "No trial has finished yet.")
    return _ANSWERS[results.study.figure](results)


def _bars(results: StudyResults) -> StudyFigure:
    """As figure 1a: a bar an arm, in a panel a sparsity."""

    def paint(axes: "Axes", number: int) -> None:
        rows = [row for row in results.at(results.study.sparsities[number]) if row.ours]
        for place, row in enumerate(rows):
            style = results.style_of(row.cell.arm)
            axes.bar(place, fmean(row.ours), width=0.7, color=style.colour, alpha=0.85)
            _spread(axes, place, row.ours, color="black", capsize=6)
            axes.plot([place + 0.2] * len(row.ours), row.ours, "o", color="white", mec="black", markersize=5)
            name = full_name(row.cell.arm)
            hover(
                axes, [place + 0.2] * len(row.ours), row.ours, [f"{name}, one trial: {one:.2f} %" for one in row.ours]
            )
            hover(axes, [place], [fmean(row.ours)], [f"{name}: {mean_and_spread(row.ours)} %"])
        axes.set_xticks(range(len(rows)), [fill(full_name(row.cell.arm), 12) for row in rows], fontsize=11)
        axes.set_xlabel("arm")
        axes.grid(visible=False, axis="x")

    caption = f"Bars: {_SPREAD}; circles: single trials."
    arms = max(2, len(results.study.arms))
    grid = by_sparsity(results, 2 if arms < 7 else 1, (1.15 * arms + 0.8, 4.4), extra=(0.4, 0.9))
    return draw_panels(results, "accuracy", results.study.title, caption, grid, paint, _finished(results))


def _sweep(results: StudyResults) -> StudyFigure:
    """As figures 1b and 1c: accuracy over the places of a row of arms, beside bands of the other arms."""

    def paint(axes: "Axes", number: int) -> None:
        rows = [row for row in results.at(results.study.sparsities[number]) if row.ours]
        for name, arms in families(results.study).items():
            placed = [row for row in rows if row.cell.arm in arms and row.cell.arm.fraction is not None]
            at = [(row.cell.arm.fraction or 0.0) * results.epochs for row in placed]
            _line(axes, at, [row.ours for row in placed], results, arms[0], f"{name} at epoch e")
        for row in (row for row in rows if row.cell.arm.fraction is None):
            _band(axes, row, results)
        axes.set_xlabel(f"epoch e, of {results.epochs:,}")

    caption = f"Symbols: {_SPREAD}, at the epoch e of the arm. Bands: likewise, of arms that know no e."
    grid = by_sparsity(results, 2, (5.2, 4.0))
    return draw_panels(results, "accuracy", results.study.title, caption, grid, paint, _finished(results, legend_below))


def _sparsities(results: StudyResults) -> StudyFigure:
    """Accuracy over sparsity, a line an arm."""

    def paint(axes: "Axes", number: int) -> None:  # noqa: ARG001
        every = families(results.study)
        for shift, (name, arms) in zip(apart(len(every), _room(results.study.sparsities)), every.items(), strict=True):
            rows = [row for row in results.rows if row.cell.arm in arms and row.ours and row.cell.sparsity is not None]
            at = [(row.cell.sparsity or 0.0) + shift for row in rows]
            _line(axes, at, [row.ours for row in rows], results, arms[0], name)
        for row in (row for row in results.rows if row.cell.sparsity is None and row.ours):
            _band(axes, row, results)
        axes.set_xticks(results.study.sparsities, [f"{sparsity:g}" for sparsity in results.study.sparsities])
        axes.set_xlabel("sparsity (share of the weights that are not there)")

    caption = f"Symbols and bands: {_SPREAD}. Symbols of a sparsity are set side by side."
    grid = PanelGrid(("",), 1, (8.4, 5.0))
    return draw_panels(results, "accuracy", results.study.title, caption, grid, paint, _finished(results, legend_below))


_ANSWERS: Mapping[FigureKind, Callable[[StudyResults], StudyFigure]] = MappingProxyType(
    {"bars": _bars, "sweep": _sweep, "sparsities": _sparsities}
)


def _line(
    axes: "Axes", at: Sequence[float], samples: Sequence[Sequence[float]], results: StudyResults, arm: Arm, name: str
) -> None:
    if not at:
        return
    style = results.style_of(arm)
    points = sorted(zip(at, samples, strict=True))
    means = [fmean(sample) for _, sample in points]
    axes.plot([x for x, _ in points], means, color=style.colour, marker=style.marker, markersize=7, label=name)
    hover(axes, [x for x, _ in points], means, [f"{name}: {mean_and_spread(sample)} %" for _, sample in points])
    for x, sample in points:
        _spread(axes, x, sample, color=style.colour, capsize=4)


def _band(axes: "Axes", row: CellComparison, results: StudyResults) -> None:
    """A level all across, as wide as the standard deviation."""
    colour, mean = results.style_of(row.cell.arm).colour, fmean(row.ours)
    spread = stdev(row.ours) if len(row.ours) > 1 else 0.0
    axes.axhline(mean, color=colour, linestyle=(0, (5, 2)), label=family(row.cell.arm))
    told = [f"{family(row.cell.arm)}: {mean_and_spread(row.ours)} %"]
    hover(axes, [0.5], [mean], told, transform=axes.get_yaxis_transform())  # half way across, whatever the x-axis is
    axes.axhspan(mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)


def _spread(axes: "Axes", at: float, sample: Sequence[float], **style: Any) -> None:
    if len(sample) > 1:
        axes.errorbar([at], [fmean(sample)], yerr=[stdev(sample)], fmt="none", linewidth=1.8, **style)


def _finished(
    results: StudyResults, *then: Callable[["Figure", Sequence["Axes"]], None]
) -> Callable[["Figure", Sequence["Axes"]], None]:
    """Sets the accuracy axis that all panels share, around all trials."""
    every = [accuracy for row in results.rows for accuracy in row.ours]
    bottom, top = _around(every)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        panels[0].set_ylim(bottom, top)
        for axes in panels:
            if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
                axes.set_ylabel(_ACCURACY + (f"\nthe axis begins at {bottom:g}" if bottom else ""))
        for one in then:
            one(figure, panels)

    return finish


def _around(accuracies: Iterable[float]) -> tuple[float, float]:
    """An axis around all of them, from a multiple of a half; differences of tenths would drown on one from zero."""
    lowest, highest = min(accuracies := list(accuracies)), max(accuracies)
    margin = max(0.4, 0.15 * (highest - lowest))
    bottom = (2 * (lowest - margin)) // 1 / 2
    return (bottom if bottom > highest / 4 else 0.0), min(101.0, highest + margin)


def _room(sparsities: Sequence[float]) -> float:
    """A fifth of the least distance between two of them."""
    ordered = sorted(sparsities)
    return 0.2 * min((later - earlier for earlier, later in pairwise(ordered)), default=0.01)
