"""Charts as data: what their panels show, what pointing at them says, and what their CSV files have."""

import csv
import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import quote

import attrs

from sparsecore.report.colours import Style
from sparsecore.report.marks import Mark
from sparsecore.report.scales import Axis, short_number

MAX_POINTS = 500
"""A line of a page has at most this many points."""
MAX_CELLS = 20_000
"""A CSV file of a page has at most about this many numbers, as the page has all files in it."""

Cell = str | float | int | None


@attrs.frozen
class Table:
    """The data of a chart as a table, for its CSV file.

    Attributes:
        head: names of the columns.
        rows: texts and numbers; None for what is missing.
    """

    head: tuple[str, ...] = ()
    rows: Sequence[Sequence[Cell]] = ()

    def csv(self) -> str:
        """Return the table as CSV: numbers with all their digits, lines that end with CR LF (RFC 4180)."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.head)
        writer.writerows(self.rows)
        return text.getvalue()

    def link(self) -> str:
        """Return the CSV file as a ``data:`` link."""
        return "data:text/csv;charset=utf-8," + quote(self.csv(), safe=",;:/.-_()+*", errors="replace")


@attrs.frozen
class Reading:
    """What pointing at a panel says of one series.

    Attributes:
        name: name of the series.
        style: its look; None if it has none.
        places: the number on the vertical axis at each stop, where the pointer's circle is; None for none.
        texts: the value at each stop; None where the series has none.
    """

    name: str
    style: Style | None
    places: Sequence[float | None]
    texts: Sequence[str | None]


@attrs.frozen
class Readings:
    """What pointing at a panel says.

    Attributes:
        along: the axis along which the pointer stops: 'x', 'y', or 'xy' for the nearest point.
        stops: the numbers on this axis at which it stops, ascending; of 'xy' those on the horizontal axis.
        heads: the first line at each stop, such as 'epoch 3'.
        rows: the series.
        unit: unit of all values, such as '%'.
    """

    along: Literal["x", "y", "xy"] = "x"
    stops: Sequence[float] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Reading] = ()
    unit: str = ""


@attrs.frozen
class Series:
    """A series of values, as the input of :func:`readings`.

    Attributes:
        name: its name.
        style: its look.
        points: numbers on the horizontal axis, ascending, with the place on the vertical one and the text of each.
        holds: whether a value holds until the next one, so that it has a text also between its points.
    """

    name: str
    style: Style | None
    points: Sequence[tuple[float, float, str]]
    holds: bool = False


def series_of(name: str, style: Style | None, points: Sequence[tuple[float, float]], *, holds: bool = False) -> Series:
    """Return a series whose values have six significant digits; whole numbers have all of theirs.

    Args:
        name: its name.
        style: its look.
        points: its points, from left to right.
        holds: whether a value holds until the next one.
    """
    return Series(name, style, [(x, y, short_number(y)) for x, y in points], holds)


def readings(series: Sequence[Series], head: Mapping[float, str] | str, unit: str = "") -> Readings:
    """Return what pointing at lines says: the values of all series at the stop next to the pointer.

    Args:
        series: the series, whose points together are the stops.
        head: the name of the horizontal axis, such as 'epoch', or the first line at each stop.
        unit: unit of all values.
    """
    stops = sorted({x for one in series for x, _, _ in one.points})
    shown = [stops[index] for index in evenly_spaced(len(stops), MAX_POINTS)]
    heads = [f"{head} {short_number(stop)}" if isinstance(head, str) else head[stop] for stop in shown]
    return Readings("x", shown, heads, [_reading(one, shown) for one in series], unit)


def _reading(series: Series, stops: Sequence[float]) -> Reading:
    begins = [x for x, _, _ in series.points]
    found = []
    for stop in stops:
        index = bisect_right(begins, stop) - 1
        there = index >= 0 and (series.holds or begins[index] == stop)
        found.append(series.points[index] if there else None)
    places = [None if point is None else point[1] for point in found]
    return Reading(series.name, series.style, places, [None if point is None else point[2] for point in found])


@attrs.frozen
class Panel:
    """One pair of axes.

    Attributes:
        title: what distinguishes it from the other panels of its chart; empty if it is the only one.
        x: the horizontal axis.
        y: the vertical axis.
        marks: what is drawn, the backmost first.
        readings: what pointing at it says.
    """

    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    readings: Readings = Readings()


@attrs.frozen
class ColourScale:
    """The meaning of the colours of a heat map.

    Attributes:
        low: the number with the strongest violet, as text.
        high: the number with the strongest orange, as text.
        unit: what the numbers are.
    """

    low: str
    high: str
    unit: str


@attrs.frozen
class Chart:
    """A figure of a report.

    Attributes:
        name: unique name within the page and of its files, of letters, digits, dots and hyphens.
        title: heading.
        caption: text below; if there are no panels, the reason.
        panels: pairs of axes, which have the same legend.
        legend: name and look of each series; empty for none.
        table: its data.
        scale: the meaning of the colours of heat maps; None for other charts.
        is_wide: whether it takes the whole width of the page.
        is_folded: whether the legend is folded away, as with many series.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...] = ()
    legend: tuple[tuple[str, Style], ...] = ()
    table: Table = Table()
    scale: ColourScale | None = None
    is_wide: bool = False
    is_folded: bool = False


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Return some of the indices 0..count-1, evenly spaced, always with the first and the last.

    Args:
        count: how many there are to choose from.
        limit: how many to choose at most, at least 2.

    Returns:
        Ascending indices; all of them if there are at most ``limit``.
    """
    if count <= limit:
        return list(range(count))
    return [round(index * (count - 1) / (limit - 1)) for index in range(limit)]
