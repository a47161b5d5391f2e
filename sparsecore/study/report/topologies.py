"""What the topologies did: where parameters went, when topologies had converged, how much of the space was explored."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.study.arms import Arm
from sparsecore.study.courses import Course, Moment
from sparsecore.study.report.account import Account
from sparsecore.study.report.looks import families, family, full_name
from sparsecore.study.report.panels import Picture, by_sparsity, legend_below, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
POINTS = 240
_BAND = "Lines are means of the trials, bands reach from the lowest to the highest, over the epochs of their own runs."


def overlap(account: Account) -> Picture:
    """Jaccard index with the topology of the end, over epochs."""
    title = "How much of the final topology is there already"
    caption = (
        "Jaccard index of the topology at each epoch with that at the end of its own run: positions active in both, of "
        f"those active in either. {_BAND}{_left_out(account)}"
    )
    return _over_epochs(account, "overlap", title, caption, "overlap with the end (Jaccard index)", _overlap)


def explored(account: Account) -> Picture:
    """The share of positions that were ever active, over epochs."""
    title = "How much of the dense network was ever explored (ITOP rate)"
    caption = f"Share of all positions that have been active at least once by then. {_BAND}{_left_out(account)}"
    return _over_epochs(account, "explored", title, caption, "positions ever active (% of all)", _explored)


def moving(account: Account) -> list[Arm]:
    """The arms whose topologies moved; of a row of arms the one that stands last."""
    every = [arms[-1] for arms in families(account.study).values()]
    moved = {trial.arm for trial, course in account.courses.items() if course.updates}
    return [arm for arm in every if arm.name in moved]


def over(course: Course, epochs: Floats, quantity: Callable[[Moment], float | tuple[int, ...]]) -> Floats:
    """What holds at these epochs: an update's topology does until the next one; a row an epoch, if it has several."""
    begins = np.array([moment.epoch for moment in course.moments])
    values = np.array([quantity(moment) for moment in course.moments])
    held: Floats = values[np.searchsorted(begins, epochs, side="right") - 1]
    return held


def _overlap(moment: Moment) -> float:
    return moment.overlap


def _explored(moment: Moment) -> float:
    return 100 * moment.explored


def _over_epochs(
    account: Account, name: str, title: str, caption: str, quantity: str, of: Callable[[Moment], float]
) -> Picture:
    arms = moving(account)
    if not arms:
        return Picture(name, title, "No finished trial has moved a weight.")

    def paint(axes: "Axes", number: int) -> None:
        for arm in arms:
            _curve(axes, account, arm, account.courses_of(arm, account.study.sparsities[number]), of)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        for axes in panels:
            if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
                axes.set_ylabel(quantity)
        legend_below(figure, panels)

    return picture(account, name, title, caption, by_sparsity(account, 2, (5.2, 3.8)), paint, finish)


def _curve(axes: "Axes", account: Account, arm: Arm, courses: Sequence[Course], of: Callable[[Moment], float]) -> None:
    if not courses:
        return
    epochs = np.linspace(0, courses[0].epochs, POINTS)
    values = np.array(list(map(partial(over, epochs=epochs, quantity=of), courses)))
    colour = account.look(arm).colour
    look: Any = {"marker": account.look(arm).marker, "markevery": POINTS // 8, "markersize": 6}
    axes.plot(epochs, values.mean(axis=0), color=colour, label=full_name(arm), drawstyle="steps-post", **look)
    axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, step="post", linewidth=0)


def _left_out(account: Account) -> str:
    """Which arms there is nothing to draw of, and why."""
    drawn = {family(arm) for arm in moving(account)}
    still = [name for name in families(account.study) if name not in drawn]
    rows = [name for name, arms in families(account.study).items() if len(arms) > 1 and name in drawn]
    last = "".join(f" Of {name!r} only the last place is drawn." for name in rows)
    return last + (f" Not drawn, as nothing moved or nothing has finished: {', '.join(still)}." if still else "")
