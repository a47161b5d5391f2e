"""What the topologies did: where parameters went, when topologies had converged, how much of the space was explored."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.study.arms import Arm
from sparsecore.study.report.contents import StudyResults
from sparsecore.study.report.panels import StudyFigure, by_sparsity, draw_panels, legend_below
from sparsecore.study.report.styles import families, family, full_name
from sparsecore.study.topology_history import Snapshot, TopologyHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparsecore.report.drawing import evenly_spaced, hover
from sparsecore.study.report.panels import PanelGrid, apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Floats = NDArray[np.float64]
POINTS = 240
_BAND = "Lines are means of the trials, bands reach from the lowest to the highest, over the epochs of their own runs."


def overlap_figure(results: StudyResults) -> StudyFigure:
    """Jaccard index with the topology of the end, over epochs."""
    title = "How much of the final topology is there already"
    caption = (
        "Jaccard index of the topology at each epoch with that at the end of its own run: positions active in both, of "
        f"those active in either. {_BAND}{_arms_not_drawn(results)}"
    )
    return _over_epochs(results, "overlap", title, caption, "overlap with the end (Jaccard index)", _overlap)


def explored_figure(results: StudyResults) -> StudyFigure:
    """The share of positions that were ever active, over epochs."""
    title = "How much of the dense network was ever explored (ITOP rate)"
    caption = f"Share of all positions that have been active at least once by then. {_BAND}{_arms_not_drawn(results)}"
    return _over_epochs(results, "explored", title, caption, "positions ever active (% of all)", _explored)


def moving(results: StudyResults) -> list[Arm]:
    """The arms whose topologies moved; of a row of arms the one that stands last."""
    every = [arms[-1] for arms in families(results.study).values()]
    moved = {trial.arm for trial, history in results.histories.items() if history.updates}
    return [arm for arm in every if arm.name in moved]


def over(history: TopologyHistory, epochs: Floats, quantity: Callable[[Snapshot], float | tuple[int, ...]]) -> Floats:
    """What holds at these epochs: an update's topology does until the next one; a row an epoch, if it has several."""
    begins = np.array([snapshot.epoch for snapshot in history.snapshots])
    values = np.array([quantity(snapshot) for snapshot in history.snapshots])
    held: Floats = values[np.searchsorted(begins, epochs, side="right") - 1]
    return held


def _overlap(snapshot: Snapshot) -> float:
    return snapshot.overlap


def _explored(snapshot: Snapshot) -> float:
    return 100 * snapshot.explored


def _over_epochs(
    results: StudyResults, name: str, title: str, caption: str, quantity: str, of: Callable[[Snapshot], float]
) -> StudyFigure:
    arms = moving(results)
    if not arms:
        return StudyFigure(name, title, "No finished trial has moved a weight.")

    def paint(axes: "Axes", number: int) -> None:
        for arm in arms:
            _curve(axes, results, arm, results.histories_of(arm, results.study.sparsities[number]), of)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        for axes in panels:
            if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
                axes.set_ylabel(quantity)
        legend_below(figure, panels)

    return draw_panels(results, name, title, caption, by_sparsity(results, 2, (5.2, 3.8)), paint, finish)


def _curve(
    axes: "Axes", results: StudyResults, arm: Arm, histories: Sequence[TopologyHistory], of: Callable[[Snapshot], float]
) -> None:
    if not histories:
        return
    epochs = np.linspace(0, histories[0].epochs, POINTS)
    values = np.array(list(map(partial(over, epochs=epochs, quantity=of), histories)))
    colour = results.style_of(arm).colour
    style: Any = {"marker": results.style_of(arm).marker, "markevery": POINTS // 8, "markersize": 6}
    axes.plot(epochs, values.mean(axis=0), color=colour, label=full_name(arm), drawstyle="steps-post", **style)
    shown = evenly_spaced(len(epochs), _HOVERS)
    means = values.mean(axis=0)
    told = [f"{full_name(arm)}: {means[index]:.4g} at epoch {epochs[index]:.4g}" for index in shown]
    hover(axes, [float(epochs[index]) for index in shown], [float(means[index]) for index in shown], told)
    axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, step="post", linewidth=0)


def _arms_not_drawn(results: StudyResults) -> str:
    """Which arms there is nothing to draw of, and why."""
    drawn = {family(arm) for arm in moving(results)}
    still = [name for name in families(results.study) if name not in drawn]
    rows = [name for name, arms in families(results.study).items() if len(arms) > 1 and name in drawn]
    last = "".join(f" Of {name!r} only the last place is drawn." for name in rows)
    return last + (f" Not drawn, as nothing moved or nothing has finished: {', '.join(still)}." if still else "")


MOST_NAMES = 30
_HOVERS = 24
"""Points of a line whose values the pointer tells."""


def density_heat_maps(results: StudyResults) -> Iterator[StudyFigure]:
    """Active parameters of each tensor over epochs, beside an even spread: a figure a sparsity, a panel an arm."""
    for sparsity in results.study.sparsities:
        title = f"Active parameters per tensor over time, sparsity {sparsity:g}"
        shown = [(arm, histories) for arm in moving(results) if (histories := results.histories_of(arm, sparsity))]
        name = f"active-at-{sparsity:g}".replace(".", "-")
        if shown:
            yield _heat(results, name, title, shown)
        else:
            yield StudyFigure(name, title, "No finished trial has moved a weight.")


def final_sparsity_figure(results: StudyResults) -> StudyFigure:
    """The sparsity of each tensor at the end, of every trial."""
    title = "Sparsity of each tensor at the end"
    arms = [arm for arm in _distinct(results) if any(results.histories_of(arm, s) for s in results.study.sparsities)]
    if not arms:
        return StudyFigure("final", title, "No trial of a sparse network has finished yet.")

    def paint(axes: "Axes", number: int) -> None:
        for shift, arm in zip(apart(len(arms), 0.5), arms, strict=True):
            _ends(axes, results, arm, results.histories_of(arm, results.study.sparsities[number]), shift)
        axes.set_ylabel("sparsity (% of positions)")

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        names = _names(results, arms)
        shown = evenly_spaced(len(names), MOST_NAMES)
        for axes in panels:
            bottom, top = axes.get_ylim()
            # tensors that differ by a rounding are to look alike
            axes.set_ylim(min(bottom, top - 2), max(top, bottom + 2))
            axes.set_xticks(shown, [""] * len(shown))
        panels[-1].set_xticks(shown, [names[place] for place in shown], rotation=90, fontsize=10)
        panels[-1].set_xlabel("tensor, in network order")
        legend_below(figure, panels)

    caption = (
        "Lines join the means of the trials; each symbol is a trial; arms are set side by side. Arms on a final "
        "structure have that of its arm."
    )
    grid = by_sparsity(results, 1, (10.5, 2.8), extra=(0.4, 3.0), shared="none")
    return draw_panels(results, "final", title, caption, grid, paint, finish)


def _heat(
    results: StudyResults, name: str, title: str, shown: Sequence[tuple[Arm, Sequence[TopologyHistory]]]
) -> StudyFigure:
    heats = [_relative(histories) for _, histories in shown]
    most = max(0.1, *(float(np.nanmax(np.abs(heat))) for heat in heats))
    names = shown[0][1][0].tensors
    images: list[Any] = []

    def paint(axes: "Axes", number: int) -> None:
        extent = (0, shown[number][1][0].epochs, len(names) - 0.5, -0.5)
        style: Any = {"aspect": "auto", "interpolation": "nearest", "cmap": "PuOr_r", "vmin": -most, "vmax": most}
        images.append(axes.imshow(heats[number], extent=extent, **style))
        _hover_rows(axes, names, heats[number], shown[number][1][0].epochs)
        ticks = evenly_spaced(len(names), MOST_NAMES)
        axes.set_yticks(ticks, [names[place] for place in ticks], fontsize=9)
        axes.set_xlabel("epoch")
        axes.set_ylabel("tensor, in network order" if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
        axes.grid(visible=False)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        bar = figure.colorbar(images[-1], ax=list(panels), ticks=MaxNLocator(5, steps=[1, 2, 5, 10]))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda doublings, _: f"{2**doublings:.3g}"))
        bar.set_label("density / that of the network")

    caption = (
        "How large a share of each tensor's positions is active, beside that share of the whole network; means of the "
        "trials, over the epochs of their own runs. Orange tensors are denser than the network, purple ones sparser."
    )
    grid = PanelGrid(
        tuple(full_name(arm) for arm, _ in shown),
        2,
        (4.4, max(2.6, 0.19 * min(len(names), MOST_NAMES)) + 0.8),
        (2.6, 1.0),
    )
    return draw_panels(results, name, title, caption, grid, paint, finish)


def _hover_rows(axes: "Axes", names: Sequence[str], heat: Floats, epochs: int) -> None:
    """Let the pointer tell the values of some tensors, evenly spread, at some epochs."""
    times = np.linspace(0, epochs, heat.shape[1])
    for row in evenly_spaced(len(names), MOST_NAMES):
        columns = [column for column in evenly_spaced(heat.shape[1], _HOVERS // 2) if np.isfinite(heat[row, column])]
        told = [
            f"{names[row]}: {2 ** heat[row, column]:.3g} of the network's density at epoch {times[column]:.4g}"
            for column in columns
        ]
        hover(axes, [float(times[column]) for column in columns], [float(row)] * len(columns), told)


def _relative(histories: Sequence[TopologyHistory]) -> Floats:
    """How dense each tensor is beside the whole network, in doublings; (tensors, points), of the mean of all trials."""
    epochs = np.linspace(0, histories[0].epochs, POINTS)
    counts = np.mean([over(history, epochs, _active) for history in histories], axis=0).T
    sizes = np.array(histories[0].sizes)[:, None]
    with np.errstate(divide="ignore"):  # a tensor may have lost all its weights
        doublings: Floats = np.log2(counts / sizes * sizes.sum() / counts.sum(axis=0))
    return np.where(np.isfinite(doublings), doublings, np.nan)


def _active(snapshot: Snapshot) -> tuple[int, ...]:
    return snapshot.active


def _distinct(results: StudyResults) -> list[Arm]:
    """The sparse arms with a topology of their own."""
    moved = {arm.name for arm in moving(results)}
    every = (arms[-1] for arms in families(results.study).values())
    return [arm for arm in every if arm.name in moved or (arm.after is None and not _is_dense(results, arm))]


def _is_dense(results: StudyResults, arm: Arm) -> bool:
    histories = [history for sparsity in results.study.sparsities for history in results.histories_of(arm, sparsity)]
    return all(history.snapshots[-1].active == history.sizes for history in histories)


def _ends(axes: "Axes", results: StudyResults, arm: Arm, histories: Sequence[TopologyHistory], shift: float) -> None:
    if not histories:
        return
    ends = np.array([100 * (1 - np.array(history.snapshots[-1].active) / history.sizes) for history in histories])
    places, style = np.arange(ends.shape[1]) + shift, results.style_of(arm)
    axes.plot(places, ends.mean(axis=0), color=style.colour, linewidth=1.4, marker=style.marker, markersize=4)
    axes.plot([], [], color=style.colour, marker=style.marker, label=full_name(arm))
    means = [float(mean) for mean in ends.mean(axis=0)]
    told = [f"{full_name(arm)}, {name}: {mean:.2f} %" for name, mean in zip(histories[0].tensors, means, strict=True)]
    hover(axes, [float(place) for place in places], means, told)
    for end in ends:
        axes.plot(places, end, linestyle="none", marker=style.marker, color=style.colour, markersize=5, alpha=0.5)


def _names(results: StudyResults, arms: Sequence[Arm]) -> tuple[str, ...]:
    return next(history.tensors for trial, history in results.histories.items() if trial.arm == arms[0].name)
