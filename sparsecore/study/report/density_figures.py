"""Figures of the density of each tensor over time, as heat maps relative to the network and as lines."""

from collections.abc import Iterator, Sequence

import numpy as np

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
from sparsecore.report.colours import ramp_style
from sparsecore.report.heat import Heat
from sparsecore.report.marks import Line, held
from sparsecore.report.scales import Axis
from sparsecore.study.definition import Arm
from sparsecore.study.report.panels import full_name, legend
from sparsecore.study.report.results import StudyResults
from sparsecore.study.report.topology_figures import NOTHING_MOVED, PAGE, Floats, Resolution, at_epochs, moving
from sparsecore.study.topology_history import TopologyHistory, TopologySnapshot

MAX_LINES = 40
"""Maximum number of tensors with a line of their own."""


def density_heat_maps(results: StudyResults, resolution: Resolution = PAGE) -> Iterator[Chart]:
    """Draw the density of each tensor over epochs relative to the whole network.

    Args:
        results: the results so far.
        resolution: number of points in time.

    Yields:
        A figure for each sparsity, with a panel for each arm that has moved a weight: the mean over its trials, on a
        logarithmic scale. Without such an arm nothing is drawn, and the caption says so.
    """
    for sparsity in results.study.sparsities:
        title = f"Active parameters per tensor over time, sparsity {sparsity:g}"
        name = f"active-at-{sparsity:g}".replace(".", "-")
        shown = _moving_at(results, sparsity)
        yield _heat_map(name, title, shown, resolution) if shown else Chart(name, title, NOTHING_MOVED)


def density_lines(results: StudyResults, resolution: Resolution = PAGE) -> Iterator[Chart]:
    """Draw the density of each tensor over epochs, a line for each tensor, in percent of its positions.

    Args:
        results: the results so far.
        resolution: number of points in time.

    Yields:
        A figure for each sparsity, with a panel for each arm that has moved a weight. Without such an arm nothing is
        drawn, and the caption says so.
    """
    for sparsity in results.study.sparsities:
        title = f"Density of each tensor over time, sparsity {sparsity:g}"
        name = f"density-at-{sparsity:g}".replace(".", "-")
        shown = _moving_at(results, sparsity)
        yield _lines(name, title, shown, resolution) if shown else Chart(name, title, NOTHING_MOVED)


Shown = Sequence[tuple[Arm, Sequence[TopologyHistory]]]


def _moving_at(results: StudyResults, sparsity: float) -> Shown:
    """Return the arms whose topologies changed, with their histories at a sparsity."""
    return [(arm, histories) for arm in moving(results) if (histories := results.histories_of(arm, sparsity))]


def _densities(histories: Sequence[TopologyHistory], epochs: Floats) -> Floats:
    """Return the share of active positions of each tensor, the mean of all trials; shape (tensors, points)."""
    counts = np.mean([at_epochs(history, epochs, _active) for history in histories], axis=0).T
    densities: Floats = counts / np.array(histories[0].sizes)[:, None]
    return densities


def _times(shown: Shown, resolution: Resolution) -> list[Floats]:
    """Return the points in time of each arm: as many for all, over the epochs of its own runs."""
    lines = len(shown) * len(shown[0][1][0].tensors)
    return [np.linspace(0, histories[0].epochs, resolution.points(lines)) for _, histories in shown]


def _tensor_table(shown: Shown, times: Sequence[Floats], numbers: Sequence[Floats]) -> Table:
    """Return a table with a row for each arm and point in time, and a column for each tensor."""
    rows = [
        (arm.name, *row)
        for (arm, _), epochs, of_arm in zip(shown, times, numbers, strict=True)
        for row in np.vstack([epochs, of_arm]).T.tolist()
    ]
    return Table(("arm", "epoch", *shown[0][1][0].tensors), rows)


def _lines(name: str, title: str, shown: Shown, resolution: Resolution) -> Chart:
    names = shown[0][1][0].tensors
    lines, times = evenly_spaced(len(names), MAX_LINES), _times(shown, resolution)
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


def _heat_map(name: str, title: str, shown: Shown, resolution: Resolution) -> Chart:
    times = _times(shown, resolution)
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


def _active(snapshot: TopologySnapshot) -> tuple[int, ...]:
    return snapshot.active
