"""Figures of a comparison of strategies: accuracies with their intervals, and accuracy over training FLOPs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparsecore.report.drawing import hover
from sparsecore.study.report.panels import PanelGrid, StudyFigure, Style, draw_panels, legend_below, styles_of
from sparsecore.study.report.results import counted
from sparsecore.study.strategy_comparison.results import ArmResult, ComparisonResults, NetworkResult
from sparsecore.study.strategy_comparison.tables import in_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACCURACY = "test accuracy (%)"


def accuracy_figure(network: NetworkResult, results: ComparisonResults) -> StudyFigure:
    """Draw the accuracies of all arms, the most accurate on top, in a panel for each sparsity.

    Args:
        network: the results on a network; without a finished trial nothing is drawn, and the caption says so.
        results: the comparison.
    """
    name, title = f"accuracy-{network.network.name}", "Test accuracy"
    if not _finished(network):
        return StudyFigure(name, title, "No trial has finished yet.")

    styles = _styles(network, results)

    def paint(axes: "Axes", number: int) -> None:
        arms = _with_trials(network.sparsities[number].arms)[::-1]
        for y, arm in enumerate(arms):
            accuracies = [100 * accuracy for accuracy in arm.accuracy.values]
            mean, half = 100 * (arm.accuracy.mean or 0.0), 100 * (arm.accuracy.half_width or 0.0)
            axes.plot(accuracies, [y] * len(accuracies), "o", color="white", mec="black", markersize=4)
            style = styles[arm.arm.name]
            axes.errorbar(mean, y, xerr=half, fmt=style.marker, color=style.colour, capsize=4)
            hover(axes, [mean], [y], [f"{arm.arm.name}: {in_text(arm.accuracy, 2, 100)} %"])
        axes.set_yticks(range(len(arms)), [f"{arm.arm.name}  {arm.letters}".rstrip() for arm in arms], fontsize=11)
        axes.set_xlabel(_ACCURACY)
        axes.grid(visible=False, axis="y")

    rows = max(len(_with_trials(one.arms)) for one in network.sparsities)
    grid = _grid(network, (4.6, 0.28 * rows + 1.2))
    caption = (
        "Means with 95 % intervals (Student's t); circles: single trials. Strategies with a letter in common do not "
        "differ after Holm's correction."
    )
    return draw_panels(_protocol(network, results), name, title, caption, grid, paint, _without_legend)


def flops_figure(network: NetworkResult, results: ComparisonResults) -> StudyFigure:
    """Draw accuracy over training FLOPs relative to the dense network, in a panel for each sparsity.

    Args:
        network: the results on a network; without known FLOPs nothing is drawn, and the caption says so.
        results: the comparison.
    """
    name, title = f"flops-{network.network.name}", "Test accuracy over training FLOPs"
    if not any(arm.training_flops.values for one in network.sparsities for arm in one.arms):
        return StudyFigure(name, title, "The FLOPs of no trial are known yet.")

    styles = _styles(network, results)

    def paint(axes: "Axes", number: int) -> None:
        for arm in _with_trials(network.sparsities[number].arms):
            if arm.training_flops.mean is None:
                continue
            x, y, name = arm.training_flops.mean, 100 * (arm.accuracy.mean or 0.0), arm.arm.name
            half, style = 100 * (arm.accuracy.half_width or 0.0), styles[name]
            axes.errorbar(x, y, yerr=half, fmt=style.marker, color=style.colour, capsize=3, label=name)
            hover(axes, [x], [y], [f"{name}: {in_text(arm.accuracy, 2, 100)} % at {x:.3f} of dense"])
        axes.set_xscale("log")
        axes.set_xlabel("training FLOPs / dense")
        axes.set_ylabel(_ACCURACY)

    caption = "Means with 95 % intervals of the accuracy; the FLOPs are those of all steps, dense gradients included."
    grid = _grid(network, (5.0, 4.0 + 0.3 * len(styles) / 4))
    return draw_panels(_protocol(network, results), name, title, caption, grid, paint, legend_below)


def _styles(network: NetworkResult, results: ComparisonResults) -> Mapping[str, Style]:
    """Return the style of each arm, by its name: the one that it has in other studies, if there is one."""
    comparison = results.comparison
    return styles_of(comparison.trials_with(network.network, [arm.arm({}) for arm in comparison.arms]))


def _protocol(network: NetworkResult, results: ComparisonResults) -> str:
    epochs = counted(network.epochs or 0, "epoch")
    return f"{network.title}, {epochs}, {counted(results.comparison.trials, 'trial')}"


def _grid(network: NetworkResult, size: tuple[float, float]) -> PanelGrid:
    titles = tuple(f"sparsity {one.sparsity:g}" for one in network.sparsities)
    return PanelGrid(titles, 3, size, extra=(0.4, 1.0), shared="none")


def _finished(network: NetworkResult) -> bool:
    return any(_with_trials(one.arms) for one in network.sparsities)


def _with_trials(arms: Sequence[ArmResult]) -> list[ArmResult]:
    return [arm for arm in arms if arm.finished]


def _without_legend(figure: "Figure", panels: Sequence["Axes"]) -> None:
    """Leave the figure as it is: the names of the arms are in the panels."""
