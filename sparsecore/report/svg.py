"""Panels of charts as SVG elements of a page, and what the page's script knows of them."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from sparsecore.errors import printable
from sparsecore.report.charts import Panel, Reading, evenly_spaced
from sparsecore.report.plane import Plane, pixels
from sparsecore.report.scales import Axis, tick_texts

WIDTH = 420
"""Width of a drawing, which the page scales to that of its column: about this on a phone, a third more elsewhere."""
_HEIGHT = 230
"""Height of a plot area with numbers on both axes."""
_LETTER = 6.4
"""Pixels of a letter, on average."""
_DIGIT = 7.2
"""Pixels of a digit."""
_TOP, _TOP_WITHOUT_LABEL, _RIGHT, _BOTTOM = 22, 6, 12, 36
_LEAST_LEFT, _MOST_LEFT = 30, 150
_MOST_LETTERS = int((_MOST_LEFT - 10) / _LETTER)
_TITLE_ROW = 46
"""Height of a row whose name is above it."""
_ROW = 22
"""Height of a row whose name is beside it, if there is room for all."""
_SYMBOL = 9
"""Height of a symbol in a row of several."""
_MOST_HEIGHT = 620
"""Height of the rows of an axis that need not show all its names."""
_LEAST_NAMED_ROW = 12


def plane_of(panel: Panel, keys: Mapping[str, str]) -> Plane:
    """Return the plot area of a panel.

    Args:
        panel: the panel.
        keys: class of each series in the legend, by its name.
    """
    points = [point for mark in panel.marks for point in mark.extent()]
    x_limits, y_limits = panel.x.limits(x for x, _ in points), panel.y.limits(y for _, y in points)
    left, height = _LEAST_LEFT, float(_HEIGHT)
    if panel.y.categories:
        longest = max(map(len, panel.y.categories))
        beside = _names_beside(panel.y)
        rows = len(panel.y.categories)
        left = min(_MOST_LEFT, 12 + round(longest * _LETTER)) if beside else 8
        height = rows * (max(_ROW, _SYMBOL * panel.y.symbols) if beside else _TITLE_ROW)
        if panel.y.is_sparse:
            height = max(120.0, min(height, _MOST_HEIGHT))
    else:
        texts = tick_texts(panel.y.ticks(*y_limits))
        left = max(_LEAST_LEFT, 10 + round(_DIGIT * max(map(len, texts), default=1)))
    top = float(_TOP if panel.y.label else _TOP_WITHOUT_LABEL)
    box = (float(left), top, float(WIDTH - _RIGHT), top + height)
    return Plane(panel.x, panel.y, x_limits, y_limits, box, dict(keys))


def _names_beside(axis: Axis) -> bool:
    """Return whether the names of an axis have room beside its rows, else they are above them."""
    return axis.is_sparse or max(map(len, axis.categories)) <= _MOST_LETTERS


def panel_svg(panel: Panel, plane: Plane, label: str) -> str:
    """Return a panel as an ``<svg>`` element.

    Args:
        panel: the panel.
        plane: its plot area.
        label: what it shows, for screen readers.
    """
    height = pixels(plane.box[3] + _BOTTOM)
    inside = "".join(mark.svg(plane) for mark in panel.marks)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" tabindex="0" aria-label="{escape(label)}">'
        f'<g class="axes">{"".join(_axes(panel, plane))}</g>{inside}</svg>'
    )


def _axes(panel: Panel, plane: Plane) -> Iterator[str]:
    left, top, right, bottom = plane.box
    yield f'<text class="label" x="0" y="11">{escape(panel.y.label)}</text>'
    yield f'<text class="label" x="{pixels((left + right) / 2)}" y="{pixels(bottom + 31)}" text-anchor="middle">'
    yield f"{escape(panel.x.label)}</text>"
    ticks = panel.x.ticks(*plane.x_limits)
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        place = pixels(plane.left(tick))
        yield f'<path class="grid" d="M{place} {pixels(top)}V{pixels(bottom)}"/>'
        yield f'<text x="{place}" y="{pixels(bottom + 15)}" text-anchor="middle">{text}</text>'
    yield from _names(panel.y, plane) if panel.y.categories else _numbers(panel.y, plane)
    yield f'<path class="edge" d="M{pixels(left)} {pixels(top)}V{pixels(bottom)}H{pixels(right)}"/>'


def _numbers(axis: Axis, plane: Plane) -> Iterator[str]:
    left, _, right, _ = plane.box
    ticks = axis.ticks(*plane.y_limits)
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        place = plane.top(tick)
        yield f'<path class="grid" d="M{pixels(left)} {pixels(place)}H{pixels(right)}"/>'
        yield f'<text x="{pixels(left - 5)}" y="{pixels(place + 4)}" text-anchor="end">{text}</text>'


def _names(axis: Axis, plane: Plane) -> Iterator[str]:
    left, top, _, bottom = plane.box
    beside = _names_beside(axis)
    rows = len(axis.categories)
    room = int((bottom - top) / _LEAST_NAMED_ROW)
    for index in evenly_spaced(rows, max(2, room)):
        name = printable(axis.categories[index])
        if beside:
            x, y, anchor, text = left - 5, plane.top(index) + 4, "end", _shortened(name, _MOST_LETTERS)
        else:
            x, y, anchor, text = left + 3, plane.top(index - 0.5) + 10, "start", _shortened(name, int(400 / _LETTER))
        title = f"<title>{escape(name)}</title>" if text != name else ""
        yield f'<text x="{pixels(x)}" y="{pixels(y)}" text-anchor="{anchor}">{title}{escape(text)}</text>'


def _shortened(name: str, letters: int) -> str:
    """Return a name without its middle if it is longer than the room for it."""
    if len(name) <= letters:
        return name
    return f"{name[: letters // 3]}…{name[-(letters - letters // 3 - 1) :]}"


def panel_data(panel: Panel, plane: Plane, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page's script knows of a panel, as JSON.

    Args:
        panel: the panel.
        plane: its plot area.
        keys: class of each series in the legend, by its name.

    Returns:
        'along' is the axis along which the pointer stops, 'box' the plot area, 'at' the stops in pixels, 'heads' the
        first line at each, and 'rows' the series: 'name', the classes 'key' and 'colour', 'places' on the other axis in
        pixels, and 'texts'.
    """
    known = panel.readings
    along = plane.top if known.along == "y" else plane.left
    return {
        "along": known.along,
        "box": [round(edge, 1) for edge in plane.box],
        "at": [round(along(stop), 1) for stop in known.stops],
        "heads": list(known.heads),
        "unit": known.unit,
        "rows": [_row(row, plane, known.along == "y", keys) for row in known.rows],
    }


def _row(row: Reading, plane: Plane, upright: bool, keys: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": printable(row.name),
        "key": keys.get(row.name, ""),
        "colour": "" if row.style is None else row.style.colour.name,
        "places": _places(row.places, plane, upright),
        "texts": list(row.texts),
    }


def _places(places: Sequence[float | None], plane: Plane, upright: bool) -> list[float | None]:
    axis, other = (plane.x, plane.left) if upright else (plane.y, plane.top)
    return [None if one is None or not axis.has_place(one) else round(other(one), 1) for one in places]
