"""What is drawn in the panels of charts: lines, bands, bars, intervals and circles.

Each is drawn twice: as SVG in a page, whose colours are those of the page, and by matplotlib in files.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import attrs

from sparsecore.report.colours import Style
from sparsecore.report.plane import Plane, Points, path, pieces, pixels, symbol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_MARKERS = 40
"""A line of more points has no markers."""


class Mark(Protocol):
    """Something that is drawn in a panel.

    Attributes:
        series: name of the series in the legend that it belongs to; empty for none.
    """

    @property
    def series(self) -> str:
        """The name of the series."""

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements; empty if there is nothing to draw."""

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""


@attrs.frozen
class Line:
    """A line through points; a point that is not finite interrupts it.

    Attributes:
        series: name of the series in the legend.
        style: its look.
        points: its points. Those of a step have both ends of it, as from :func:`held`.
        marked: points with a symbol of the style's marker.
        width: relative to other lines.
    """

    series: str
    style: Style
    points: Points
    marked: Points = ()
    width: float = 1.0

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""
        return (*self.points, *self.marked)

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements."""
        dashes = ' stroke-dasharray="6 3.5"' if self.style.dashed else ""
        width = f' style="stroke-width:{2 * self.width:g}"' if self.width != 1.0 else ""
        paths = "".join(path(piece) for piece in pieces(map(plane.place, self.points)) if len(piece) > 1)
        line = f'<path class="line" d="{paths}"{dashes}{width}/>' if paths else ""
        places = filter(None, map(plane.place, self.marked))
        symbols = "".join(symbol(self.style.marker, *place, 3.2) for place in places)
        return plane.group(self.series, self.style, line + symbols)

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""
        colour = self.style.colour.light
        if self.points:
            dashes = (0, (4, 2)) if self.style.dashed else "-"
            axes.plot(*zip(*self.points, strict=True), color=colour, linestyle=dashes, linewidth=1.8 * self.width)
        if self.marked:
            axes.plot(*zip(*self.marked, strict=True), self.style.marker or "o", color=colour, markersize=6)


@attrs.frozen
class Band:
    """The area between two lines.

    Attributes:
        series: name of the series in the legend.
        style: its look.
        x: its points on the horizontal axis.
        low: the lower line.
        high: the upper line.
        opacity: between 0 and 1; at 1 the area has a thin line around it.
    """

    series: str
    style: Style
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    opacity: float = 0.18

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""
        return (*zip(self.x, self.low, strict=True), *zip(self.x, self.high, strict=True))

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements."""
        low = list(filter(None, map(plane.place, zip(self.x, self.low, strict=True))))
        high = list(filter(None, map(plane.place, zip(self.x, self.high, strict=True))))
        if not low or not high:
            return ""
        kind = "area" if self.opacity == 1.0 else "band"
        return plane.group(self.series, self.style, f'<path class="{kind}" d="{path([*low, *high[::-1]])}z"/>')

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""
        line = {"edgecolor": "white", "linewidth": 0.2} if self.opacity == 1.0 else {"linewidth": 0}
        axes.fill_between(
            list(self.x), list(self.low), list(self.high), color=self.style.colour.light, alpha=self.opacity, **line
        )


@attrs.frozen
class Bar:
    """A horizontal bar in the row of a name.

    Attributes:
        series: name of the series in the legend.
        style: its look.
        row: position of the name on the vertical axis.
        value: where it ends on the horizontal axis; it begins at the edge.
        thickness: relative to the distance of two rows.
    """

    series: str
    style: Style
    row: float
    value: float
    thickness: float = 0.4

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""
        return ((self.value, self.row),)

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements."""
        top, bottom = plane.top(self.row - self.thickness / 2), plane.top(self.row + self.thickness / 2)
        left, right = plane.box[0], plane.left(self.value)
        bar = (
            f'<rect class="bar" x="{pixels(left)}" y="{pixels(top)}" width="{pixels(max(0.0, right - left))}" '
            f'height="{pixels(bottom - top)}"/>'
        )
        return plane.group(self.series, self.style, bar)

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""
        axes.barh(self.row, self.value, height=self.thickness, color=self.style.colour.light, alpha=0.85)


@attrs.frozen
class Interval:
    """A mean with an interval around it: a symbol, and a line with a stroke at each end.

    Attributes:
        series: name of the series in the legend.
        style: its look.
        mean: the point of the mean.
        low: the lower end; the mean itself if there is no interval.
        high: the upper end.
        in_ink: whether the line has the colour of texts, as on a bar of its own colour, without a symbol.
    """

    series: str
    style: Style
    mean: tuple[float, float]
    low: tuple[float, float]
    high: tuple[float, float]
    in_ink: bool = False

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""
        return self.mean, self.low, self.high

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements."""
        middle, ends = plane.place(self.mean), [plane.place(self.low), plane.place(self.high)]
        if middle is None:
            return ""
        places = [place for place in ends if place is not None]
        line = ""
        if len(places) == 2 and self.low != self.high:
            upright = self.low[0] == self.high[0]
            right, down = (4, 0) if upright else (0, 4)
            strokes = [((x - right, y - down), (x + right, y + down)) for x, y in places]
            shape = "".join(map(path, [places, *strokes]))
            halo = f'<path class="halo" d="{shape}"/>' if self.in_ink else ""
            line = f'{halo}<path class="whisker{" ink" if self.in_ink else ""}" d="{shape}"/>'
        mark = "" if self.in_ink else symbol(self.style.marker, *middle, 4)
        return plane.group(self.series, self.style, line + mark)

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""
        colour = "black" if self.in_ink else self.style.colour.light
        (x, y), (left, bottom), (right, top) = self.mean, self.low, self.high
        x_error = None if left == right else [[x - left], [right - x]]
        y_error = None if bottom == top else [[y - bottom], [top - y]]
        form = "none" if self.in_ink else (self.style.marker or "o")
        axes.errorbar([x], [y], yerr=y_error, xerr=x_error, fmt=form, color=colour, capsize=4, linewidth=1.6)


@attrs.frozen
class Dots:
    """Small circles, such as those of single trials.

    Attributes:
        series: name of the series in the legend.
        style: its look.
        points: their middles.
        is_open: whether they are filled with the colour of the page.
    """

    series: str
    style: Style
    points: Points
    is_open: bool = True

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""
        return self.points

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements."""
        places = filter(None, map(plane.place, self.points))
        circles = "".join(f'<circle cx="{pixels(x)}" cy="{pixels(y)}" r="2.6"/>' for x, y in places)
        kind = "open" if self.is_open else "faint"
        return plane.group(self.series, self.style, f'<g class="{kind}">{circles}</g>' if circles else "")

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""
        if not self.points:
            return
        colour = self.style.colour.light
        look = {"color": "white", "mec": "black"} if self.is_open else {"color": colour, "alpha": 0.5}
        axes.plot(*zip(*self.points, strict=True), "o", markersize=4, **look)


@attrs.frozen
class Level:
    """A horizontal line across the panel, with a band around it.

    Attributes:
        series: name of the series in the legend.
        style: its look; the line is dashed.
        value: the line.
        half: half the height of the band; 0 for none.
    """

    series: str
    style: Style
    value: float
    half: float = 0.0

    def extent(self) -> Iterable[tuple[float, float]]:
        """Return points that are to be inside the panel."""
        return ((math.nan, self.value - self.half), (math.nan, self.value + self.half))

    def svg(self, plane: Plane) -> str:
        """Return the SVG elements."""
        left, right = pixels(plane.box[0]), pixels(plane.box[2] - plane.box[0])
        top, bottom = plane.top(self.value + self.half), plane.top(self.value - self.half)
        band = (
            f'<rect class="band" x="{left}" y="{pixels(top)}" width="{right}" height="{pixels(bottom - top)}"/>'
            if self.half
            else ""
        )
        line = f'<path class="line" stroke-dasharray="6 3.5" d="M{left} {pixels(plane.top(self.value))}h{right}"/>'
        return plane.group(self.series, self.style, band + line)

    def paint(self, axes: "Axes") -> None:
        """Draw by matplotlib."""
        axes.axhline(self.value, color=self.style.colour.light, linestyle=(0, (5, 2)))
        if self.half:
            low, high = self.value - self.half, self.value + self.half
            axes.axhspan(low, high, color=self.style.colour.light, alpha=0.2, linewidth=0)


def held(points: Points) -> list[tuple[float, float]]:
    """Return the points of a line whose numbers hold until the next point: both ends of each step."""
    steps: list[tuple[float, float]] = list(points[:1])
    for (_, before), (x, y) in pairwise(points):
        steps += [(x, before), (x, y)] if y != before else [(x, y)]
    return steps


def held_before(points: Points) -> list[tuple[float, float]]:
    """Return the points of a line whose numbers hold since the point before: both ends of each step."""
    steps: list[tuple[float, float]] = list(points[:1])
    for (earlier, before), (x, y) in pairwise(points):
        steps += [(earlier, y), (x, y)] if y != before else [(x, y)]
    return steps
