"""Matplotlib figures as SVG and PNG: the same drawing gives the same bytes, whatever is configured on the machine."""

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


_PAGE_COLOURS = {"#ffffff": "page", "#000000": "ink", "#dddddd": "rule", "#cccccc": "rule"}
"""Colours of a drawing that are the page's own, which may be a dark one."""

_NOTHING_ELSE = dict.fromkeys(["Creator", "Date", "Format", "Type"])
PIXELS_AN_INCH = 150
_HOVER = "hover-"
_MOST_HOVERS = 200


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


def draw_axes(name: str, size: tuple[float, float], paint: Callable[["Axes"], None]) -> str:
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
        return _element(figure, name)


def draw_svg(name: str, size: tuple[float, float], paint: Callable[["Figure"], None]) -> str:
    """The ``<svg>`` element of a figure with whatever axes it needs; arguments as for :func:`draw_axes`."""
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        return _element(figure, name)


def _element(figure: "Figure", name: str) -> str:
    _take_literally(figure)
    return _with_hovers(_inline(_svg(figure), name), f"{name}-")


def hover(axes: "Axes", x: Sequence[float], y: Sequence[float], texts: Sequence[str], **more: Any) -> None:
    """Let the reader of a page see a text where the pointer is at a point.

    Args:
        axes: to draw on.
        x: of the points.
        y: of the points.
        texts: one a point.
        **more: further arguments of ``Axes.plot``, such as a transform.
    """
    points = [(one, other, text) for one, other, text in zip(x, y, texts, strict=True) if isfinite(one + other)]
    shown = [points[index] for index in evenly_spaced(len(points), _MOST_HOVERS)]
    if not shown:
        return
    xs, ys, said = zip(*shown, strict=True)
    # the ids of a page are distinct, also where a figure has several axes
    artists = [artist for each in axes.get_figure(root=True).axes for artist in each.get_lines()]  # type: ignore[union-attr]
    number = sum(str(artist.get_gid()).startswith(_HOVER) for artist in artists)
    gid = _HOVER + ".".join([str(number), *(base64.urlsafe_b64encode(text.encode()).decode() for text in said)])
    axes.plot(xs, ys, linestyle="none", marker="o", markersize=9, alpha=0, gid=gid, label="_hover", **more)


def _with_hovers(element: str, prefix: str) -> str:
    """The texts, which are in the ids of their points for want of a better place, as titles of the points."""

    def told(group: re.Match[str]) -> str:
        number, *texts = group[1].split(".")
        left = iter(texts)
        points = re.sub(
            r"(<use [^>]*?)/>",
            lambda use: f"{use[1]}><title>{escape(base64.urlsafe_b64decode(next(left)).decode())}</title></use>",
            group[2],
        )
        return f'<g id="{prefix}{_HOVER}{number}">{points}'

    return re.sub(rf'<g id="{prefix}{_HOVER}([^"]*)">(.*?</g>)', told, element, flags=re.DOTALL)


def draw_files(name: str, size: tuple[float, float], paint: Callable[["Figure"], None]) -> Drawing:
    """A figure with whatever axes it needs, in both formats; arguments as for :func:`draw_axes`."""
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        _take_literally(figure)
        return Drawing(name, _with_hovers(_svg(figure), ""), _png(figure))


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
    for colour, name_of_colour in _PAGE_COLOURS.items():
        element = re.sub(rf"(?<=[:\s]){colour}(?=[;\"])", f"var(--{name_of_colour})", element)
    # every figure of matplotlib has a figure_1 and an axes_1, and a page may have an id only once
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", element)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of 0..count-1, evenly spread, with the first and the last; all of them if there are few."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]
