"""What all figures of a study share: styles of arms, panels under a title with the protocol, and one legend."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import attrs

from sparsecore.report.drawing import Drawing, draw_files, draw_svg
from sparsecore.study.definition import Arm, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLE_LETTERS_PER_INCH = 10
_TITLE_HEIGHT = 0.6
"""Height in inches of the title and the protocol."""


@attrs.frozen
class Style:
    """The look of an arm in figures and tables.

    Attributes:
        colour: '#RRGGBB'.
        marker: as matplotlib names it; readers in greyscale recognize the arm by it.
    """

    colour: str
    marker: str


# Okabe and Ito's colours
BLUE, VERMILION = Style("#0072B2", "o"), Style("#D55E00", "s")
GREEN, PURPLE = Style("#009E73", "^"), Style("#CC79A7", "D")
ORANGE, SKY, BLACK = Style("#E69F00", "v"), Style("#56B4E9", "P"), Style("#000000", "X")
GREY = Style("#8A8A8A", "p")  # instead of yellow, which is invisible as a line on white
STYLES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)

_KNOWN_STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "dpr": BLUE,
        "pruned-dense": VERMILION,
        "set": GREEN,
        "final-original": GREEN,
        "deepr": PURPLE,
        "final-fresh": PURPLE,
        "static": ORANGE,
        "random": ORANGE,
        "rigl": SKY,
        "dense": BLACK,
        "thin-dense": GREY,
    }
)
"""Styles of arms that several studies have, by name."""


def full_name(arm: Arm) -> str:
    """Return the name of an arm in figures, with the fraction of an arm of a sweep."""
    return arm.title if arm.fraction is None else f"{arm.title} ({arm.fraction:g})"


def families(study: Study) -> dict[str, list[Arm]]:
    """Return the arms by their names in figures, in the order of the study.

    Args:
        study: the study.

    Returns:
        Lists of one arm each, except for the arms of a sweep, which share a name.
    """
    found: dict[str, list[Arm]] = {}
    for arm in study.arms:
        found.setdefault(arm.title, []).append(arm)
    return found


def styles_of(study: Study) -> dict[str, Style]:
    """Return the style of each family of arms.

    Args:
        study: the study.

    Returns:
        By the names of :func:`families`: the usual style of the first arm's name, else that of its topmost strategy,
        else one that no other family has.
    """
    arms = {name: members[0] for name, members in families(study).items()}
    known = {name: _KNOWN_STYLES[arm.name] for name, arm in arms.items() if arm.name in _KNOWN_STYLES}
    for name, arm in arms.items():
        of_strategy = _KNOWN_STYLES.get(arm.strategy[-1]) if arm.strategy else None
        if name not in known and of_strategy is not None and of_strategy not in known.values():
            known[name] = of_strategy
    free = _free_styles(set(known.values()))
    return {name: known[name] if name in known else next(free) for name in arms}


def _free_styles(used: set[Style]) -> Iterator[Style]:
    """Yield the styles that are not used, then all colours again with the markers of other styles."""
    yield from (style for style in STYLES if style not in used)
    for shift in range(1, len(STYLES)):
        for index, style in enumerate(STYLES):
            yield Style(style.colour, STYLES[(index + shift) % len(STYLES)].marker)
    while True:
        yield BLACK


@attrs.frozen
class StudyFigure:
    """A figure of a study's report.

    Attributes:
        name: unique name of the figure and its files.
        title: heading of the figure.
        caption: explanation; if nothing is drawn, the reason.
        drawing: files with title and protocol; None if there is nothing to draw.
        on_page: ``<svg>`` element without title and protocol, which the page itself shows.
    """

    name: str
    title: str
    caption: str
    drawing: Drawing | None = None
    on_page: str = ""


@attrs.frozen
class PanelGrid:
    """An arrangement of panels in rows.

    Attributes:
        titles: a title for each panel.
        columns: number of panels side by side.
        size: width and height of a panel in inches.
        extra: further width and height in inches, for the legend and labels.
        shared: whether all panels have the same y-axis.
    """

    titles: tuple[str, ...]
    columns: int
    size: tuple[float, float]
    extra: tuple[float, float] = (0.6, 1.7)
    shared: Literal["all", "none"] = "all"

    @property
    def rows(self) -> int:
        """The number of rows."""
        return ceil(len(self.titles) / self.columns)


def draw_panels(
    protocol: str,
    name: str,
    title: str,
    caption: str,
    grid: PanelGrid,
    paint: Callable[["Axes", int], Any],
    finish: Callable[["Figure", Sequence["Axes"]], Any],
) -> StudyFigure:
    """Draw a figure of several panels.

    Args:
        protocol: line below the title.
        name: unique name of the figure.
        title: heading of the figure.
        caption: explanation of the figure.
        grid: arrangement of the panels.
        paint: draws on the axes of the panel with a number.
        finish: draws what belongs to the whole figure, such as a legend.
    """
    columns = min(grid.columns, len(grid.titles))
    size = (columns * grid.size[0] + grid.extra[0], grid.rows * grid.size[1] + grid.extra[1])

    def panels(figure: "Figure") -> None:
        axes_list = list(figure.subplots(grid.rows, columns, squeeze=False, sharey=grid.shared).flat)
        for number, axes in enumerate(axes_list):
            if number < len(grid.titles):
                axes.set_title(grid.titles[number], fontsize=13, loc="left")
                paint(axes, number)
            else:
                axes.set_visible(False)
        finish(figure, axes_list[: len(grid.titles)])

    def whole(figure: "Figure") -> None:
        lines = (fill(line, int(_TITLE_LETTERS_PER_INCH * size[0])) for line in (title, protocol))
        figure.suptitle("\n".join(lines), fontsize=14, x=0.01, ha="left")
        panels(figure)

    on_page = draw_svg(name, (size[0], size[1] - _TITLE_HEIGHT), _without_math(panels))
    return StudyFigure(name, title, caption, draw_files(name, size, _without_math(whole)), on_page)


def _without_math(compose: Callable[["Figure"], None]) -> Callable[["Figure"], None]:
    """Show all texts as they are, because titles and names of users may have dollars."""

    def composed(figure: "Figure") -> None:
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):
            compose(figure)

    return composed


def legend_below(figure: "Figure", panels: Sequence["Axes"], columns: int = 4) -> None:
    """Draw one legend for all panels, with an entry for each label.

    Args:
        figure: the figure, below whose panels the legend is drawn.
        panels: the axes whose labels are collected; of several lines with one label the last is shown.
        columns: the number of entries side by side.
    """
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=columns, fontsize=12)


def set_left_label(panels: Sequence["Axes"], label: str) -> None:
    """Label the y-axis of the panels in the first column."""
    for axes in panels:
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel(label)


def by_sparsity(study: Study, columns: int, size: tuple[float, float], **more: Any) -> PanelGrid:
    """Return a grid with a panel for each sparsity of a study.

    Args:
        study: the study.
        columns: the number of panels side by side.
        size: width and height of a panel in inches.
        more: further attributes of :class:`PanelGrid`.
    """
    return PanelGrid(tuple(f"sparsity {sparsity:g}" for sparsity in study.sparsities), columns, size, **more)


def spread_out(count: int, width: float) -> list[float]:
    """Return shifts around zero that place symbols side by side.

    Args:
        count: the number of symbols.
        width: the width that they share, in units of the axis.

    Returns:
        ``count`` ascending shifts, each the middle of its part of [-width/2, width/2].
    """
    return [width * ((index + 0.5) / count - 0.5) for index in range(count)]
