"""Charts as SVG and PNG files, drawn by matplotlib, with the title and the protocol in them."""

from collections.abc import Sequence
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any

from sparsecore.errors import printable
from sparsecore.report.charts import Chart, Panel, Readings
from sparsecore.report.colours import Style
from sparsecore.report.drawing import Drawing, draw_files, hover
from sparsecore.report.scales import Axis, tick_texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as DrawnAxis
    from matplotlib.figure import Figure

_TITLE_LETTERS_PER_INCH = 10
_PANEL_WIDTH, _PANEL_HEIGHT = 5.4, 3.9
_ROW_HEIGHT, _MOST_HEIGHT = 0.34, 9.0
_MOST_NAMES = 40
_LEGEND_COLUMNS = 4
_MOST_LEGEND = 24
"""A legend with more names is left out."""


def draw_chart(chart: Chart, protocol: str) -> Drawing:
    """Draw a chart as an SVG and a PNG file.

    Args:
        chart: a chart with at least one panel.
        protocol: line below the title.
    """
    columns = min(2, len(chart.panels))
    rows = ceil(len(chart.panels) / columns)
    height = max(map(_height, chart.panels))
    entries = chart.legend if len(chart.legend) <= _MOST_LEGEND else ()
    size = (columns * _PANEL_WIDTH + 0.6, rows * height + 1.0 + 0.3 * ceil(len(entries) / _LEGEND_COLUMNS))

    def compose(figure: "Figure") -> None:
        from matplotlib import rc_context

        # titles and names of users may have dollars
        with rc_context({"text.parse_math": False}):
            lines = (fill(line, int(_TITLE_LETTERS_PER_INCH * size[0])) for line in (chart.title, protocol))
            figure.suptitle("\n".join(lines), fontsize=14, x=0.01, ha="left")
            all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
            for axes in all_axes[len(chart.panels) :]:
                axes.set_visible(False)
            for axes, panel in zip(all_axes, chart.panels, strict=False):
                paint_panel(axes, panel)
            _draw_legend(figure, entries)
            if chart.scale is not None:
                scale = f"violet: {chart.scale.low}, white: 1, orange: {chart.scale.high} {chart.scale.unit}"
                figure.supxlabel(scale, fontsize=11, x=0.01, ha="left")

    return draw_files(chart.name, size, compose)


def _height(panel: Panel) -> float:
    return min(_MOST_HEIGHT, max(_PANEL_HEIGHT, 1.2 + _ROW_HEIGHT * len(panel.y.categories)))


def paint_panel(axes: "Axes", panel: Panel) -> None:
    """Draw a panel on axes of matplotlib.

    Args:
        axes: empty axes.
        panel: the panel.
    """
    axes.set_title(panel.title, fontsize=13, loc="left")
    for mark in panel.marks:
        mark.paint(axes)
    points = [point for mark in panel.marks for point in mark.extent()]
    if panel.x.is_logarithmic:
        axes.set_xscale("log")
    if panel.y.is_logarithmic:
        axes.set_yscale("log")
    axes.set_xlim(*panel.x.limits(x for x, _ in points))
    bottom, top = panel.y.limits(y for _, y in points)
    axes.set_ylim(*((top, bottom) if panel.y.categories else (bottom, top)))
    _label(axes.xaxis, panel.x)
    _label(axes.yaxis, panel.y)
    axes.set_xlabel(fill(panel.x.label, 40))
    axes.set_ylabel(fill(panel.y.label, 44))
    _add_hovers(axes, panel.readings)


def _label(drawn: "DrawnAxis", axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    if axis.categories:
        names = [fill(printable(name), 24) for name in axis.categories]
        shown = range(0, len(names), ceil(len(names) / _MOST_NAMES))
        drawn.set_ticks(shown, [names[index] for index in shown], fontsize=10)
        drawn.grid(visible=False)
    elif axis.labelled:
        ticks = axis.ticks(*drawn.get_view_interval())
        drawn.set_ticks(ticks, tick_texts(ticks))
    elif axis.is_whole:
        drawn.set_major_locator(MaxNLocator(nbins=6, integer=True))
        drawn.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _add_hovers(axes: "Axes", readings: Readings) -> None:
    """Add tooltips: the pointer at a point shows its name, its value and where it is."""
    unit = f" {readings.unit}" if readings.unit else ""
    for row in readings.rows:
        known = [
            (stop, place, f"{printable(row.name)}: {text}{unit} at {printable(head)}")
            for stop, place, text, head in zip(readings.stops, row.places, row.texts, readings.heads, strict=True)
            if place is not None and text is not None
        ]
        stops, places, texts = [one for one, _, _ in known], [one for _, one, _ in known], [one for _, _, one in known]
        upright = readings.along == "y"
        hover(axes, places if upright else stops, stops if upright else places, texts)


def _draw_legend(figure: "Figure", entries: Sequence[tuple[str, Style]]) -> None:
    """Draw one legend for all panels, below them."""
    if not entries:
        return
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], **_look(style)) for _, style in entries]
    names = [fill(printable(name), 60) for name, _ in entries]
    columns = 1 if max(map(len, names)) > 30 else _LEGEND_COLUMNS
    figure.legend(lines, names, loc="outside lower left", ncols=columns, fontsize=12)


def _look(style: Style) -> dict[str, Any]:
    return {
        "color": style.colour.light,
        "marker": style.marker or None,
        "linestyle": (0, (4, 2)) if style.dashed else "-",
    }
