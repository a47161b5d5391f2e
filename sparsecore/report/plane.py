"""The plot area of a panel in pixels, and the shapes that are drawn in it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import attrs

from sparsecore.report.colours import Style
from sparsecore.report.scales import Axis

Points = Sequence[tuple[float, float]]


@attrs.frozen
class Plane:
    """The plot area of a panel in a page, with the scales of its axes.

    Attributes:
        x: the horizontal axis.
        y: the vertical axis.
        x_limits: the numbers at the left and the right edge.
        y_limits: the numbers at the bottom and the top edge.
        box: the left, top, right and bottom edge in pixels of the drawing.
        keys: names of the classes of series, by which a series is hidden.
    """

    x: Axis
    y: Axis
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]
    box: tuple[float, float, float, float]
    keys: dict[str, str]

    def left(self, number: float) -> float:
        """Return the pixels from the left of a number on the horizontal axis."""
        return self.x.scale(*self.x_limits, self.box[0], self.box[2])(number)

    def top(self, number: float) -> float:
        """Return the pixels from the top of a number on the vertical axis; names go from the top to the bottom."""
        ends = (self.box[1], self.box[3]) if self.y.categories else (self.box[3], self.box[1])
        return self.y.scale(*self.y_limits, *ends)(number)

    def place(self, point: tuple[float, float]) -> tuple[float, float] | None:
        """Return a point in pixels; None where an axis has no place for it."""
        x, y = point
        return (self.left(x), self.top(y)) if self.x.has_place(x) and self.y.has_place(y) else None

    def group(self, series: str, style: Style, content: str) -> str:
        """Return a group of elements in the colour of a series."""
        names = " ".join(filter(None, ("mark", self.keys.get(series, ""), style.colour.name)))
        return f'<g class="{names}">{content}</g>' if content else ""


def pixels(number: float) -> str:
    """Return a number of pixels with at most one digit behind the point."""
    return f"{number:.1f}".removesuffix(".0")


def pieces(points: Iterable[tuple[float, float] | None]) -> Iterator[list[tuple[float, float]]]:
    """Yield the pieces of a line between the points that have no place.

    Args:
        points: places in pixels; None where there is none.
    """
    piece: list[tuple[float, float]] = []
    for point in points:
        if point is not None:
            piece.append(point)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def path(points: Points) -> str:
    """Return the description of a path through places in pixels."""
    return "M" + "L".join(f"{pixels(x)} {pixels(y)}" for x, y in points)


_UNIT_SHAPES = {
    "s": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "^": ((0, -1.05), (1, 0.8), (-1, 0.8)),
    "v": ((0, 1.05), (1, -0.8), (-1, -0.8)),
    "D": ((0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)),
    "P": tuple(
        (x, y)
        for x, y in zip(
            (-0.35, 0.35, 0.35, 1.1, 1.1, 0.35, 0.35, -0.35, -0.35, -1.1, -1.1, -0.35),
            (-1.1, -1.1, -0.35, -0.35, 0.35, 0.35, 1.1, 1.1, 0.35, 0.35, -0.35, -0.35),
            strict=True,
        )
    ),
    "X": (
        (-0.95, -0.5),
        (-0.5, -0.95),
        (0, -0.45),
        (0.5, -0.95),
        (0.95, -0.5),
        (0.45, 0),
        (0.95, 0.5),
        (0.5, 0.95),
        (0, 0.45),
        (-0.5, 0.95),
        (-0.95, 0.5),
        (-0.45, 0),
    ),
    "p": tuple((1.05 * math.sin(0.4 * math.pi * k), -1.05 * math.cos(0.4 * math.pi * k)) for k in range(5)),
}


def symbol(marker: str, x: float, y: float, radius: float) -> str:
    """Return a symbol as an SVG element.

    Args:
        marker: as matplotlib names it.
        x: its middle, in pixels from the left.
        y: its middle, in pixels from the top.
        radius: half its width in pixels.
    """
    if marker not in _UNIT_SHAPES:
        return f'<circle cx="{pixels(x)}" cy="{pixels(y)}" r="{radius:g}"/>'
    shape = [(x + radius * right, y + radius * down) for right, down in _UNIT_SHAPES[marker]]
    return f'<path d="{path(shape)}z"/>'


def swatch(style: Style) -> str:
    """Return a small picture of a series for legends, as HTML: its line with its marker."""
    dashes = ' stroke-dasharray="6 3.5"' if style.dashed else ""
    line = f'<path class="line" d="M1 7h20"{dashes}/>'
    mark = symbol(style.marker, 11, 7, 4) if style.marker else ""
    name = escape(style.colour.name)
    return (
        f'<svg class="swatch {name}" width="22" height="14" viewBox="0 0 22 14" aria-hidden="true">{line}{mark}</svg>'
    )
