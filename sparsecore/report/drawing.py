"""Drawing of matplotlib figures as SVG and PNG, with the same bytes on every machine whatever its configuration."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any

import attrs

from sparsecore.errors import without_controls
from sparsecore.report.charts import evenly_spaced

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


_NO_METADATA = dict.fromkeys(["Creator", "Date", "Format", "Type"])
PIXELS_AN_INCH = 150
_HOVER = "hover-"
_MAX_HOVERS = 200


@attrs.frozen
class Drawing:
    """The files of a figure.

    Attributes:
        name: unique name of the figure within a page.
        svg: contents of the SVG file.
        png: contents of the PNG file.
    """

    name: str
    svg: str
    png: bytes


def hover(axes: "Axes", x: Sequence[float], y: Sequence[float], texts: Sequence[str], **more: Any) -> None:
    """Add tooltips: the pointer at a point shows its text.

    Args:
        axes: axes to draw on.
        x: x-coordinates of the points.
        y: y-coordinates of the points.
        texts: a text for each point.
        **more: further arguments of ``Axes.plot``, such as a transform.
    """
    points = [(one, other, text) for one, other, text in zip(x, y, texts, strict=True) if isfinite(one + other)]
    shown = [points[index] for index in evenly_spaced(len(points), _MAX_HOVERS)]
    if not shown:
        return
    xs, ys, shown_texts = zip(*shown, strict=True)
    # ids are unique within a figure, also if it has several axes
    figure = axes.figure.figure  # the whole one, of which axes.figure may be a part
    artists = [artist for each in figure.axes for artist in each.get_lines()]
    number = sum(str(artist.get_gid()).startswith(_HOVER) for artist in artists)
    gid = _HOVER + ".".join([str(number), *(base64.urlsafe_b64encode(text.encode()).decode() for text in shown_texts)])
    axes.plot(xs, ys, linestyle="none", marker="o", markersize=9, alpha=0, gid=gid, label="_hover", **more)


def _with_hovers(element: str) -> str:
    """Move the texts of tooltips from the ids of their groups, where matplotlib keeps them, to titles of the points."""

    def with_titles(group: re.Match[str]) -> str:
        number, *texts = group[1].split(".")
        left = iter(texts)
        points = re.sub(
            r"(<use [^>]*?)/>",
            lambda use: f"{use[1]}><title>{escape(base64.urlsafe_b64decode(next(left)).decode())}</title></use>",
            group[2],
        )
        return f'<g id="{_HOVER}{number}">{points}'

    return re.sub(rf'<g id="{_HOVER}([^"]*)">(.*?</g>)', with_titles, element, flags=re.DOTALL)


def draw_files(name: str, size: tuple[float, float], paint: Callable[["Figure"], None]) -> Drawing:
    """Draw a figure with any axes as an SVG and a PNG file.

    Args:
        name: unique name of the figure.
        size: width and height in inches.
        paint: creates the axes and draws on them.
    """
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        _disable_math(figure)
        svg = _with_hovers(_svg(figure))
        figure.set_layout_engine("none")  # the PNG has the places that were found for the SVG
        return Drawing(name, svg, _png(figure))


def _style(name: str) -> AbstractContextManager[None]:
    # matplotlib takes a noticeable part of a second to import
    import matplotlib.style

    # without "default" a matplotlibrc would change the page, without a salt the ids are random
    return matplotlib.style.context(["default", STYLE | {"svg.hashsalt": name}])


def _disable_math(figure: "Figure") -> None:
    """Show dollars in names as they are; only matplotlib's own labels of logarithmic axes are formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and "$" in text.get_text() and "\\mathdefault" not in text.get_text():
            text.set_parse_math(False)


def _svg(figure: "Figure") -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=_NO_METADATA)  # type: ignore[no-untyped-call]
    return without_controls(buffer.getvalue())


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    figure.set_dpi(PIXELS_AN_INCH)
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
