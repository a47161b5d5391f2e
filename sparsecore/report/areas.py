"""Stacked areas: in which tensors the active parameters are, from the start to now."""

import math
from typing import TYPE_CHECKING

from sparsecore.report.axes import from_zero, over_steps, whole_numbers
from sparsecore.report.drawing import draw, hover, thin
from sparsecore.report.figures import Figure
from sparsecore.report.reading import Run
from sparsecore.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_UPDATES = 250  # each is four corners in the outline of every tensor's area
MOST_LINES = 40
LEGEND_ROWS = 26
LEGEND_COLUMNS = 2


def active_parameters(run: Run) -> Figure:
    """Active parameters per tensor over optimizer steps, in network order."""
    title = "Active parameters per tensor"
    if not run.tensors:
        return Figure(title, "This run has no sparse tensors.")
    shown = thin(len(run.updates), MOST_UPDATES)
    named = set(thin(len(run.tensors), LEGEND_ROWS * LEGEND_COLUMNS))
    columns = math.ceil(len(named) / LEGEND_ROWS)

    def paint(axes: "Axes") -> None:
        _stack(axes, run, shown, named)
        axes.set_ylabel("active parameters")
        whole_numbers(axes.yaxis)
        over_steps(axes, run, margin=1.0)
        handles, labels = axes.get_legend_handles_labels()
        # from the top, as the areas lie
        look = {"fontsize": 12, "labelspacing": 0.25, "handlelength": 1.4, "ncols": columns}
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), **look)

    caption = "Tensors in network order from the bottom; steps where an update moved weights between them."
    if len(named) < len(run.tensors):
        caption += f" {len(named)} of {len(run.tensors)} tensors are named, evenly spread."
    if len(shown) < len(run.updates):
        caption += f" {len(shown)} of {len(run.updates):,} updates are drawn, evenly spread."
    return Figure(title, caption, draw("active", (8.4 + 2.6 * columns, 6.0), paint))


def densities(run: Run) -> Figure:
    """The density of each tensor over optimizer steps, a line each."""
    title = "Density of each tensor"
    if not run.updates:
        return Figure(title, "No update so far: every tensor is as dense as at the start.")
    shown, lines = thin(len(run.updates), MOST_UPDATES), thin(len(run.tensors), MOST_LINES)

    def paint(axes: "Axes") -> None:
        from matplotlib import colormaps

        updates = [run.updates[index] for index in shown]
        steps = [0, *(update.step for update in updates)]
        for tensor in (run.tensors[place] for place in lines):
            shade = 0.92 * run.tensors.index(tensor) / max(1, len(run.tensors) - 1)
            active = [tensor.active, *(update.active[tensor.name] for update in updates)]
            shares = [100 * count / tensor.size for count in active]
            axes.plot(steps, shares, color=colormaps["viridis"](shade), linewidth=1.4, drawstyle="steps-post")
            name = printable(tensor.name)
            said = [f"{name}: {share:.3g} % at step {step:,}" for step, share in zip(steps, shares, strict=True)]
            hover(axes, steps, shares, said)
        axes.set_ylabel("active (% of positions)")
        from_zero(axes)
        over_steps(axes, run)

    caption = "The darkest line is the first tensor, the lightest the last; the pointer on a line tells which."
    if len(lines) < len(run.tensors):
        caption += f" {len(lines)} of {len(run.tensors)} tensors are drawn, evenly spread."
    return Figure(title, caption, draw("densities", (6.4, 4.2), paint))


def _stack(axes: "Axes", run: Run, shown: list[int], named: set[int]) -> None:
    from matplotlib import colormaps

    updates = [run.updates[index] for index in shown]
    steps = [0, *(update.step for update in updates), max(1, run.last_step)]
    now = dict(zip((tensor.name for tensor in run.tensors), run.active, strict=True))
    counts = [
        [tensor.active, *(update.active[tensor.name] for update in updates), now[tensor.name]] for tensor in run.tensors
    ]
    names = [printable(tensor.name) if place in named else "_" for place, tensor in enumerate(run.tensors)]
    # the darkest end of the map is for the first layer; the palest, hard to see on white, is left out
    shades = [0.92 * place / max(1, len(names) - 1) for place in range(len(names))]
    colors = [colormaps["viridis"](shade) for shade in shades]
    axes.stackplot(steps, counts, labels=names, colors=colors, step="post", edgecolor="white", linewidth=0.2)
