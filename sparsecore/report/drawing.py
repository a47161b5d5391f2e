"""Matplotlib figures as SVG and PNG: the same drawing gives the same bytes, whatever is configured on the machine."""

import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import attrs

from sparsecore.words import without_controls

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


_NOTHING_ELSE = dict.fromkeys(["Creator", "Date", "Format", "Type"])
PIXELS_AN_INCH = 150


@attrs.frozen
class Drawing:
    """A figure, drawn.

    Attributes:
        name: distinct within a page.
        svg: as an SVG document of its own.
        png: as a PNG file.
    """

    name: str
    svg: str
    png: bytes

    @property
    def inline(self) -> str:
        """The ``<svg>`` element for a page; its ids start with the name."""
        return _inline(self.svg, self.name)


def draw(name: str, size: tuple[float, float], paint: Callable[["Axes"], None]) -> str:
    """The ``<svg>`` element of a figure with one pair of axes.

    Args:
        name: distinct within the page; the ids of the element start with it.
        size: width and height in inches.
        paint: draws on the axes.
    """
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        _take_literally(figure)
        return _inline(_svg(figure), name)


def drawn(name: str, size: tuple[float, float], paint: Callable[["Figure"], None]) -> Drawing:
    """A figure with whatever axes it needs, in both formats; arguments as for :func:`draw`."""
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        _take_literally(figure)
        return Drawing(name, _svg(figure), _png(figure))


def _style(name: str) -> AbstractContextManager[None]:
    # matplotlib takes a fair part of a second to import
    import matplotlib.style

    # without "default" a matplotlibrc would change the page, without a salt the ids are random
    return matplotlib.style.context(["default", STYLE | {"svg.hashsalt": name}])


def _take_literally(figure: "Figure") -> None:
    """Names may have what matplotlib would read as formulas; the only formulas are its own, at logarithmic axes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and "$" in text.get_text() and "\\mathdefault" not in text.get_text():
            text.set_parse_math(False)


def _svg(figure: "Figure") -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=_NOTHING_ELSE)  # type: ignore[no-untyped-call]
    return without_controls(buffer.getvalue())


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    figure.set_dpi(PIXELS_AN_INCH)
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


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
