"""Charts that accompany the tables, as SVG."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparsecore.report.drawing import draw_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Mapping[float, float]


def lines_chart(name: str, x: str, y: str, lines: Mapping[str, Points]) -> str:
    """A line for each name, and a thin one where dense and sparse are equal."""

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for label, points in lines.items():
            axes.plot(list(points), list(points.values()), "o-", label=label)
        axes.axhline(1.0, color="#888888", linewidth=1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower left", fontsize=11)

    return draw_files(name, (8.0, 5.6), paint).svg


def bars_chart(name: str, x: str, bars: Mapping[str, float], marks: Mapping[str, Sequence[float]]) -> str:
    """A bar for each name, and on it a mark of each kind."""

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.barh(list(bars), list(bars.values()), color="#c9d8ea")
        for (label, places), shape in zip(marks.items(), "|xo^", strict=False):
            axes.plot(places, list(bars), shape, label=label, markersize=9, mfc="none", linestyle="none")
        axes.invert_yaxis()
        axes.set_xlabel(x)
        axes.legend(title="floor by")

    return draw_files(name, (9.0, 1.6 + 0.45 * len(bars)), paint).svg
