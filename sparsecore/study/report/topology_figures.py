"""Figures of the topologies: densities over time, overlap with the end, explored positions, final sparsity."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import printable
from sparsecore.report.drawing import evenly_spaced, hover
from sparsecore.study.definition import Arm
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
from sparsecore.study.topology_history import TopologyHistory, TopologySnapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

POINTS = 240
"""Points in time of a line or a heat map."""
MAX_NAMES = 30
"""Maximum number of tensors that an axis names."""
MAX_LINES = 40
"""Maximum number of tensors with a line of their own."""
_HOVERS = 24
"""Points of a line that have tooltips."""
_NOTHING_MOVED = "No finished trial has moved a weight."
_BANDS = "Lines are means of the trials, bands reach from the lowest to the highest, over the epochs of their own runs."


def density_heat_maps(results: StudyResults) -> Iterator[StudyFigure]:
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
        yield _heat_map(results, name, title, shown) if shown else StudyFigure(name, title, _NOTHING_MOVED)


def density_lines(results: StudyResults) -> Iterator[StudyFigure]:
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
        yield _lines(results, name, title, shown) if shown else StudyFigure(name, title, _NOTHING_MOVED)


def overlap_figure(results: StudyResults) -> StudyFigure:
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
    return _over_epochs(results, "overlap", title, caption, "overlap with the end (Jaccard index)", _overlap)


def explored_figure(results: StudyResults) -> StudyFigure:
    """Draw the share of positions that have been active so far, over epochs (the ITOP rate; Liu et al. 2021).

    Args:
        results: the results so far.

    Returns:
        A figure with a panel for each sparsity, in percent of all positions.
    """
    title = "How much of the dense network has been explored (ITOP rate)"
    caption = f"Share of all positions that have been active at least once until then. {_BANDS}{_not_drawn(results)}"
    return _over_epochs(results, "explored", title, caption, "positions ever active (% of all)", _explored)


def final_sparsity_figure(results: StudyResults) -> StudyFigure:
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
        return StudyFigure("final", title, "No trial of a sparse network has finished yet.")

    def paint(axes: "Axes", number: int) -> None:
        for shift, arm in zip(spread_out(len(arms), 0.5), arms, strict=True):
            _final_sparsities(axes, results, arm, results.histories_of(arm, sparsities[number]), shift)
        axes.set_ylabel("sparsity (% of positions)")

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        names = next(history.tensors for trial, history in results.histories.items() if trial.arm == arms[0].name)
        shown = evenly_spaced(len(names), MAX_NAMES)
        for axes in panels:
            bottom, top = axes.get_ylim()
            # differences by rounding alone should be invisible
            axes.set_ylim(min(bottom, top - 2), max(top, bottom + 2))
            axes.set_xticks(shown, [""] * len(shown))
        panels[-1].set_xticks(shown, [names[index] for index in shown], rotation=90, fontsize=10)
        panels[-1].set_xlabel("tensor, in network order")
        legend_below(figure, panels)

    caption = (
        "Lines join the means of the trials; each symbol is a trial; arms are drawn side by side. Arms that train a "
        "final structure have that of their arm."
    )
    grid = by_sparsity(results.study, 1, (10.5, 2.8), extra=(0.4, 3.0), shared="none")
    return draw_panels(results.protocol, "final", title, caption, grid, paint, finish)


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


def _over_epochs(
    results: StudyResults,
    name: str,
    title: str,
    caption: str,
    label: str,
    quantity: Callable[[TopologySnapshot], float],
) -> StudyFigure:
    arms = moving(results)
    if not arms:
        return StudyFigure(name, title, _NOTHING_MOVED)

    def paint(axes: "Axes", number: int) -> None:
        for arm in arms:
            _curve(axes, results, arm, results.histories_of(arm, results.study.sparsities[number]), quantity)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        set_left_label(panels, label)
        legend_below(figure, panels)

    grid = by_sparsity(results.study, 2, (5.2, 3.8))
    return draw_panels(results.protocol, name, title, caption, grid, paint, finish)


def _curve(
    axes: "Axes",
    results: StudyResults,
    arm: Arm,
    histories: Sequence[TopologyHistory],
    quantity: Callable[[TopologySnapshot], float],
) -> None:
    if not histories:
        return
    epochs = np.linspace(0, histories[0].epochs, POINTS)
    values = np.array(list(map(partial(at_epochs, epochs=epochs, quantity=quantity), histories)))
    means, colour = values.mean(axis=0), results.style_of(arm).colour
    style: Any = {"marker": results.style_of(arm).marker, "markevery": POINTS // 8, "markersize": 6}
    axes.plot(epochs, means, color=colour, label=full_name(arm), drawstyle="steps-post", **style)
    _hover_line(axes, epochs, means, full_name(arm))
    axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, step="post", linewidth=0)


def _hover_line(axes: "Axes", epochs: Floats, values: Floats, name: str, unit: str = "") -> None:
    shown = evenly_spaced(len(epochs), _HOVERS)
    texts = [f"{name}: {values[index]:.4g}{unit} at epoch {epochs[index]:.4g}" for index in shown]
    hover(axes, [float(epochs[index]) for index in shown], [float(values[index]) for index in shown], texts)


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


def _lines(results: StudyResults, name: str, title: str, shown: Shown) -> StudyFigure:
    names = shown[0][1][0].tensors
    lines = evenly_spaced(len(names), MAX_LINES)

    def paint(axes: "Axes", number: int) -> None:
        from matplotlib import colormaps

        _, histories = shown[number]
        epochs = np.linspace(0, histories[0].epochs, POINTS)
        densities = 100 * _densities(histories, epochs)
        for line in lines:
            shade = 0.92 * line / max(1, len(names) - 1)
            colour = colormaps["viridis"](shade)
            axes.plot(epochs, densities[line], color=colour, linewidth=1.4, drawstyle="steps-post")
            _hover_line(axes, epochs, densities[line], printable(names[line]), " %")
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)

    def finish(_: "Figure", panels: Sequence["Axes"]) -> None:
        set_left_label(panels, "active (% of positions)")

    caption = (
        "Lines are means of the trials, over the epochs of their own runs. The darkest line is the first tensor, the "
        "lightest the last. Point at a line to see its tensor and values."
    )
    if len(lines) < len(names):
        caption += f" {len(lines)} of {len(names)} tensors are drawn, evenly spaced."
    grid = PanelGrid(tuple(full_name(arm) for arm, _ in shown), 2, (5.2, 3.8), extra=(0.6, 1.0))
    return draw_panels(results.protocol, name, title, caption, grid, paint, finish)


def _heat_map(results: StudyResults, name: str, title: str, shown: Shown) -> StudyFigure:
    heats = [_relative_densities(histories) for _, histories in shown]
    limit = max(0.1, *(float(np.nanmax(np.abs(heat))) for heat in heats))
    names = shown[0][1][0].tensors
    images: list[Any] = []

    def paint(axes: "Axes", number: int) -> None:
        epochs = shown[number][1][0].epochs
        extent = (0, epochs, len(names) - 0.5, -0.5)
        style: Any = {"aspect": "auto", "interpolation": "nearest", "cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
        images.append(axes.imshow(heats[number], extent=extent, **style))
        _hover_rows(axes, names, heats[number], epochs)
        ticks = evenly_spaced(len(names), MAX_NAMES)
        axes.set_yticks(ticks, [names[index] for index in ticks], fontsize=9)
        axes.set_xlabel("epoch")
        axes.grid(visible=False)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        set_left_label(panels, "tensor, in network order")
        bar = figure.colorbar(images[-1], ax=list(panels), ticks=MaxNLocator(5, steps=[1, 2, 5, 10]))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda log2, _: f"{2**log2:.3g}"))
        bar.set_label("density / that of the network")

    caption = (
        "The share of active positions of each tensor, relative to that of the whole network; means of the trials, "
        "over the epochs of their own runs. Orange tensors are denser than the network, purple ones sparser."
    )
    height = max(2.6, 0.19 * min(len(names), MAX_NAMES)) + 0.8
    grid = PanelGrid(tuple(full_name(arm) for arm, _ in shown), 2, (4.4, height), (2.6, 1.0))
    return draw_panels(results.protocol, name, title, caption, grid, paint, finish)


def _hover_rows(axes: "Axes", names: Sequence[str], heat: Floats, epochs: int) -> None:
    """Add tooltips to some tensors, evenly spaced, at some epochs."""
    times = np.linspace(0, epochs, heat.shape[1])
    for row in evenly_spaced(len(names), MAX_NAMES):
        columns = [column for column in evenly_spaced(heat.shape[1], _HOVERS // 2) if np.isfinite(heat[row, column])]
        texts = [
            f"{names[row]}: {2 ** heat[row, column]:.3g} of the network's density at epoch {times[column]:.4g}"
            for column in columns
        ]
        hover(axes, [float(times[column]) for column in columns], [float(row)] * len(columns), texts)


def _relative_densities(histories: Sequence[TopologyHistory]) -> Floats:
    """Return log2 of each tensor's density relative to the network, NaN if it is empty; shape (tensors, points)."""
    epochs = np.linspace(0, histories[0].epochs, POINTS)
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


def _final_sparsities(
    axes: "Axes", results: StudyResults, arm: Arm, histories: Sequence[TopologyHistory], shift: float
) -> None:
    if not histories:
        return
    ends = np.array([100 * (1 - np.array(history.snapshots[-1].active) / history.sizes) for history in histories])
    x, style, means = np.arange(ends.shape[1]) + shift, results.style_of(arm), ends.mean(axis=0)
    axes.plot(x, means, color=style.colour, linewidth=1.4, marker=style.marker, markersize=4)
    axes.plot([], [], color=style.colour, marker=style.marker, label=full_name(arm))
    names = histories[0].tensors
    texts = [f"{full_name(arm)}, {name}: {mean:.2f} %" for name, mean in zip(names, means, strict=True)]
    hover(axes, [float(at) for at in x], [float(mean) for mean in means], texts)
    for end in ends:
        axes.plot(x, end, linestyle="none", marker=style.marker, color=style.colour, markersize=5, alpha=0.5)
