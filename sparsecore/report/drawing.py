"""Matplotlib figures as inline SVG: the same drawing gives the same bytes, whatever is configured on the machine."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = {
    "font.size": 13.0,
    "axes.labelsize": 13.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 2.2,
    "legend.frameon": False,
    "svg.fonttype": "path",
}


def draw(name: str, size: tuple[float, float], paint: Callable[["Axes"], None]) -> str:
    """The ``<svg>`` element of a figure with one pair of axes.

    Args:
        name: distinct within the page; the ids of the element start with it.
        size: width and height in inches.
        paint: draws on the axes.
    """
    # matplotlib takes a fair part of a second to import
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # without "default" a matplotlibrc would change the page, without a salt the ids are random
    with matplotlib.style.context(["default", STYLE | {"svg.hashsalt": name}]):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))  # type: ignore[no-untyped-call]
    return _inline(buffer.getvalue(), name)


def _inline(document: str, name: str) -> str:
    """The document's element, without the XML prologue, with ids of its own."""
    element = document[document.index("<svg") :].rstrip()
    # every figure of matplotlib has a figure_1 and an axes_1, and a page may have an id only once
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", element)


def thin(count: int, most: int) -> list[int]:
    """At most ``most`` of 0..count-1, evenly spread, with the first and the last; all of them if there are few."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]
