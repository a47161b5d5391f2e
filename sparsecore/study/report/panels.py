"""What all figures of a study share: a title that tells the protocol, panels side by side, one legend below."""

from collections.abc import Callable, Sequence
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import attrs

from sparsecore.report.drawing import Drawing, draw_files, draw_svg
from sparsecore.study.report.contents import StudyResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LETTERS_AN_INCH = 10  # of a title
_TITLE = 0.6
"""Inches that a title and the protocol take."""


@attrs.frozen
class StudyFigure:
    """A figure of the report.

    Attributes:
        name: distinct; its files are named so.
        title: its heading.
        caption: what is to be seen, or why there is nothing to draw.
        drawing: with title and protocol; None where there is nothing to draw.
        on_page: the ``<svg>`` element without them, which the page itself tells.
    """

    name: str
    title: str
    caption: str
    drawing: Drawing | None = None
    on_page: str = ""


@attrs.frozen
class PanelGrid:
    """Panels in rows.

    Attributes:
        titles: a panel each.
        columns: how many stand side by side.
        size: of a panel, width and height in inches.
        extra: inches for legend and labels, width and height.
        shared: whether the y-axis of all panels is the same.
    """

    titles: tuple[str, ...]
    columns: int
    size: tuple[float, float]
    extra: tuple[float, float] = (0.6, 1.7)
    shared: Literal["all", "none"] = "all"

    @property
    def rows(self) -> int:
        """How many there are one below the other."""
        return ceil(len(self.titles) / self.columns)


def draw_panels(
    results: StudyResults,
    name: str,
    title: str,
    caption: str,
    grid: PanelGrid,
    paint: Callable[["Axes", int], Any],
    finish: Callable[["Figure", Sequence["Axes"]], Any],
) -> StudyFigure:
    """A figure of panels.

    Args:
        results: of the study.
        name: distinct within the report.
        title: its heading; below it stands the protocol.
        caption: beside it on the page.
        grid: the panels.
        paint: draws on the axes of the panel of this number.
        finish: draws what belongs to no panel, such as a legend.
    """
    columns = min(grid.columns, len(grid.titles))
    size = (columns * grid.size[0] + grid.extra[0], grid.rows * grid.size[1] + grid.extra[1])

    def panels(figure: "Figure") -> None:
        every = list(figure.subplots(grid.rows, columns, squeeze=False, sharey=grid.shared).flat)
        for number, axes in enumerate(every):
            if number < len(grid.titles):
                axes.set_title(grid.titles[number], fontsize=13, loc="left")
                paint(axes, number)
            else:
                axes.set_visible(False)
        finish(figure, every[: len(grid.titles)])

    def whole(figure: "Figure") -> None:
        told = "\n".join(fill(line, int(_LETTERS_AN_INCH * size[0])) for line in (title, results.protocol))
        figure.suptitle(told, fontsize=14, x=0.01, ha="left")
        panels(figure)

    on_page = draw_svg(name, (size[0], size[1] - _TITLE), _literally(panels))
    return StudyFigure(name, title, caption, draw_files(name, size, _literally(whole)), on_page)


def _literally(compose: Callable[["Figure"], None]) -> Callable[["Figure"], None]:
    """All texts as they stand: titles and names are whatever a user wrote, with dollars in it."""

    def composed(figure: "Figure") -> None:
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):
            compose(figure)

    return composed


def legend_below(figure: "Figure", panels: Sequence["Axes"], columns: int = 4) -> None:
    """One legend for all panels; an entry a label."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=columns, fontsize=12)


def by_sparsity(results: StudyResults, columns: int, size: tuple[float, float], **more: Any) -> PanelGrid:
    """A panel for each sparsity of the study."""
    return PanelGrid(tuple(f"sparsity {sparsity:g}" for sparsity in results.study.sparsities), columns, size, **more)


def apart(count: int, room: float) -> list[float]:
    """Shifts that set so many symbols side by side within ``room``, so that none hides another."""
    return [room * ((place + 0.5) / count - 0.5) for place in range(count)]
