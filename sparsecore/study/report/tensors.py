"""Where the parameters are: active weights of each tensor over time, and each tensor's sparsity at the end."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecore.report.drawing import thin
from sparsecore.study.arms import Arm
from sparsecore.study.courses import Course, Moment
from sparsecore.study.report.account import Account
from sparsecore.study.report.looks import families, full_name
from sparsecore.study.report.panels import Grid, Picture, apart, by_sparsity, legend_below, picture
from sparsecore.study.report.topologies import POINTS, Floats, moving, over

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 30


def active(account: Account) -> Iterator[Picture]:
    """Active parameters of each tensor over epochs, beside an even spread: a figure a sparsity, a panel an arm."""
    for sparsity in account.study.sparsities:
        title = f"Active parameters per tensor over time, sparsity {sparsity:g}"
        shown = [(arm, courses) for arm in moving(account) if (courses := account.courses_of(arm, sparsity))]
        name = f"active-at-{sparsity:g}".replace(".", "-")
        if shown:
            yield _heat(account, name, title, shown)
        else:
            yield Picture(name, title, "No finished trial has moved a weight.")


def final(account: Account) -> Picture:
    """The sparsity of each tensor at the end, of every trial."""
    title = "Sparsity of each tensor at the end"
    arms = [arm for arm in _distinct(account) if any(account.courses_of(arm, s) for s in account.study.sparsities)]
    if not arms:
        return Picture("final", title, "No trial of a sparse network has finished yet.")

    def paint(axes: "Axes", number: int) -> None:
        for shift, arm in zip(apart(len(arms), 0.5), arms, strict=True):
            _ends(axes, account, arm, account.courses_of(arm, account.study.sparsities[number]), shift)
        axes.set_ylabel("sparsity (% of positions)")

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        names = _names(account, arms)
        shown = thin(len(names), MOST_NAMES)
        for axes in panels:
            bottom, top = axes.get_ylim()
            # tensors that differ by a rounding are to look alike
            axes.set_ylim(min(bottom, top - 2), max(top, bottom + 2))
            axes.set_xticks(shown, [""] * len(shown))
        panels[-1].set_xticks(shown, [names[place] for place in shown], rotation=90, fontsize=10)
        panels[-1].set_xlabel("tensor, in network order")
        legend_below(figure, panels)

    caption = (
        "Lines join the means of the trials; each symbol is a trial; arms are set side by side. Arms on a final "
        "structure have that of its arm."
    )
    grid = by_sparsity(account, 1, (10.5, 2.8), extra=(0.4, 3.0), shared="none")
    return picture(account, "final", title, caption, grid, paint, finish)


def _heat(account: Account, name: str, title: str, shown: Sequence[tuple[Arm, Sequence[Course]]]) -> Picture:
    heats = [_relative(courses) for _, courses in shown]
    most = max(0.1, *(float(np.nanmax(np.abs(heat))) for heat in heats))
    names = shown[0][1][0].tensors
    images: list[Any] = []

    def paint(axes: "Axes", number: int) -> None:
        extent = (0, shown[number][1][0].epochs, len(names) - 0.5, -0.5)
        look: Any = {"aspect": "auto", "interpolation": "nearest", "cmap": "PuOr_r", "vmin": -most, "vmax": most}
        images.append(axes.imshow(heats[number], extent=extent, **look))
        ticks = thin(len(names), MOST_NAMES)
        axes.set_yticks(ticks, [names[place] for place in ticks], fontsize=9)
        axes.set_xlabel("epoch")
        axes.set_ylabel("tensor, in network order" if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
        axes.grid(visible=False)

    def finish(figure: "Figure", panels: Sequence["Axes"]) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        bar = figure.colorbar(images[-1], ax=list(panels), ticks=MaxNLocator(5, steps=[1, 2, 5, 10]))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda doublings, _: f"{2**doublings:.3g}"))
        bar.set_label("density / that of the network")

    caption = (
        "How large a share of each tensor's positions is active, beside that share of the whole network; means of the "
        "trials, over the epochs of their own runs. Orange tensors are denser than the network, purple ones sparser."
    )
    grid = Grid(
        tuple(full_name(arm) for arm, _ in shown),
        2,
        (4.4, max(2.6, 0.19 * min(len(names), MOST_NAMES)) + 0.8),
        (2.6, 1.0),
    )
    return picture(account, name, title, caption, grid, paint, finish)


def _relative(courses: Sequence[Course]) -> Floats:
    """How dense each tensor is beside the whole network, in doublings; (tensors, points), of the mean of all trials."""
    epochs = np.linspace(0, courses[0].epochs, POINTS)
    counts = np.mean([over(course, epochs, _active) for course in courses], axis=0).T
    sizes = np.array(courses[0].sizes)[:, None]
    with np.errstate(divide="ignore"):  # a tensor may have lost all its weights
        doublings: Floats = np.log2(counts / sizes * sizes.sum() / counts.sum(axis=0))
    return np.where(np.isfinite(doublings), doublings, np.nan)


def _active(moment: Moment) -> tuple[int, ...]:
    return moment.active


def _distinct(account: Account) -> list[Arm]:
    """The sparse arms with a topology of their own."""
    moved = {arm.name for arm in moving(account)}
    every = (arms[-1] for arms in families(account.study).values())
    return [arm for arm in every if arm.name in moved or (arm.after is None and not _is_dense(account, arm))]


def _is_dense(account: Account, arm: Arm) -> bool:
    courses = [course for sparsity in account.study.sparsities for course in account.courses_of(arm, sparsity)]
    return all(course.moments[-1].active == course.sizes for course in courses)


def _ends(axes: "Axes", account: Account, arm: Arm, courses: Sequence[Course], shift: float) -> None:
    if not courses:
        return
    ends = np.array([100 * (1 - np.array(course.moments[-1].active) / course.sizes) for course in courses])
    places, look = np.arange(ends.shape[1]) + shift, account.look(arm)
    axes.plot(places, ends.mean(axis=0), color=look.colour, linewidth=1.4, marker=look.marker, markersize=4)
    axes.plot([], [], color=look.colour, marker=look.marker, label=full_name(arm))
    for end in ends:
        axes.plot(places, end, linestyle="none", marker=look.marker, color=look.colour, markersize=5, alpha=0.5)


def _names(account: Account, arms: Sequence[Arm]) -> tuple[str, ...]:
    return next(course.tensors for trial, course in account.courses.items() if trial.arm == arms[0].name)
