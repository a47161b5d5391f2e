"""How axes look in every figure: lines over epochs or optimizer steps, whole numbers, colours."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparsecore.report.drawing import hover
from sparsecore.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's colours; lines of one figure also differ in style, for readers in greyscale
BLUE, VERMILION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
MOST_MARKERS = 40


def line(axes: "Axes", x: Sequence[float], y: Sequence[float], **look: Any) -> None:
    """A line, with markers while its points are few: a line of one point would be invisible without."""
    markers: dict[str, Any] = {"marker": "o", "markersize": 5} if len(x) <= MOST_MARKERS else {}
    axes.plot(x, y, **markers, **look)
    name = f"{look['label']}: " if "label" in look else ""
    hover(axes, x, y, [f"{name}{other:.6g} at {one:,g}" for one, other in zip(x, y, strict=True)])


def over_epochs(axes: "Axes", run: Run) -> None:
    """The x-axis from the start to the last epoch."""
    axes.set_xlabel("epoch")
    axes.set_xlim(0, max(1, run.epochs[-1].epoch) * 1.02)
    whole_numbers(axes.xaxis)


def over_steps(axes: "Axes", run: Run, margin: float = 1.02) -> None:
    """The x-axis from the start to the last optimizer step."""
    axes.set_xlabel("optimizer step")
    axes.set_xlim(0, max(1, run.last_step) * margin)
    whole_numbers(axes.xaxis)


def from_zero(axes: "Axes") -> None:
    """The y-axis from zero to above the highest finite point."""
    top = axes.dataLim.ymax
    axes.set_ylim(0, top * 1.06 if 0 < top < math.inf else 1)


def legend_above(axes: "Axes") -> None:
    """The legend outside of the axes, where no line can run through it."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0)


def whole_numbers(axis: "Axis") -> None:
    """Ticks at whole numbers, with thousands set apart."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
