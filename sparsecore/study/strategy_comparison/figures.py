"""Figures of a comparison of strategies: accuracies with their intervals, and accuracy over training FLOPs."""

from collections.abc import Iterator, Mapping, Sequence

from sparsecore.report.charts import Cell, Chart, Panel, Reading, Readings, Table
from sparsecore.report.colours import Style
from sparsecore.report.marks import Dots, Interval, Mark
from sparsecore.report.scales import Axis
from sparsecore.study.report.panels import legend, styles_of
from sparsecore.study.strategy_comparison.results import ArmResult, ComparisonResults, NetworkResult, SparsityResult
from sparsecore.study.strategy_comparison.tables import in_text

_ACCURACY = "test accuracy (%)"


def accuracy_figure(network: NetworkResult, results: ComparisonResults) -> Chart:
    """Draw the accuracies of all arms, the most accurate on top, in a panel for each sparsity.

    Args:
        network: the results on a network; without a finished trial nothing is drawn, and the caption says so.
        results: the comparison.
    """
    name, title = f"accuracy-{network.network.name}", "Test accuracy"
    if not any(_with_trials(one.arms) for one in network.sparsities):
        return Chart(name, title, "No trial has finished yet.")
    styles = arm_styles(network, results)
    caption = (
        "Means with 95 % intervals (Student's t); circles: single trials. Strategies with a letter in common do not "
        "differ after Holm's correction."
    )
    panels = tuple(_accuracies(one, styles) for one in network.sparsities if _with_trials(one.arms))
    head = ("sparsity", "strategy", "letters", "trial", "test_accuracy", "mean_test_accuracy", "half_width_95")
    table = Table(head, [row for one in network.sparsities for row in _accuracy_rows(one)])
    return Chart(name, title, caption, panels, table=table, is_wide=True)


def _accuracies(result: SparsityResult, styles: Mapping[str, Style]) -> Panel:
    arms = _with_trials(result.arms)
    names = tuple(f"{arm.arm.name}  {arm.letters}".rstrip() for arm in arms)
    marks: list[Mark] = []
    for row, arm in enumerate(arms):
        style = styles[arm.arm.name]
        marks.append(Dots("", style, [(100 * accuracy, row) for accuracy in arm.accuracy.values]))
        mean, half = _mean_and_half(arm)
        marks.append(Interval("", style, (mean, row), (mean - half, row), (mean + half, row)))
    means = [_mean_and_half(arm)[0] for arm in arms]
    trials = [", ".join(f"{100 * one:.2f}" for one in arm.accuracy.values) for arm in arms]
    rows = [
        Reading("mean ± 95 % interval", None, means, [in_text(arm.accuracy, 2, 100) for arm in arms]),
        Reading("trials", None, [None] * len(arms), trials),
    ]
    readings = Readings("y", range(len(arms)), names, rows, "%")
    return Panel(f"sparsity {result.sparsity:g}", Axis(_ACCURACY), Axis("", categories=names), marks, readings)


def _accuracy_rows(result: SparsityResult) -> Iterator[tuple[Cell, ...]]:
    for arm in _with_trials(result.arms):
        for trial, accuracy in zip(arm.finished, arm.accuracy.values, strict=True):
            measured = arm.accuracy.mean, arm.accuracy.half_width
            yield result.sparsity, arm.arm.name, arm.letters, trial, accuracy, *measured


def flops_figure(network: NetworkResult, results: ComparisonResults) -> Chart:
    """Draw accuracy over training FLOPs relative to the dense network, in a panel for each sparsity.

    Args:
        network: the results on a network; without known FLOPs nothing is drawn, and the caption says so.
        results: the comparison.
    """
    name, title = f"flops-{network.network.name}", "Test accuracy over training FLOPs"
    known = {one.sparsity: _with_flops(one.arms) for one in network.sparsities}
    if not any(known.values()):
        return Chart(name, title, "The FLOPs of no trial are known yet.")
    styles = arm_styles(network, results)
    caption = "Means with 95 % intervals of the accuracy; the FLOPs are those of all steps, dense gradients included."
    panels = tuple(_flops(sparsity, arms, styles) for sparsity, arms in known.items() if arms)
    drawn = {arm.arm.name for arms in known.values() for arm in arms}
    rows = [
        (sparsity, arm.arm.name, arm.training_flops.mean, arm.accuracy.mean, arm.accuracy.half_width)
        for sparsity, arms in known.items()
        for arm in arms
    ]
    head = ("sparsity", "strategy", "training_flops_of_dense", "mean_test_accuracy", "half_width_95")
    return Chart(
        name, title, caption, panels, legend([one for one in styles if one in drawn], styles), Table(head, rows)
    )


def _flops(sparsity: float, arms: Sequence[ArmResult], styles: Mapping[str, Style]) -> Panel:
    ordered = sorted(arms, key=lambda arm: arm.training_flops.mean or 0.0)
    stops = [arm.training_flops.mean or 0.0 for arm in ordered]
    marks: list[Mark] = []
    rows = []
    for place, (x, arm) in enumerate(zip(stops, ordered, strict=True)):
        name, (mean, half) = arm.arm.name, _mean_and_half(arm)
        marks.append(Interval(name, styles[name], (x, mean), (x, mean - half), (x, mean + half)))
        places: list[float | None] = [None] * len(ordered)
        texts: list[str | None] = [None] * len(ordered)
        places[place], texts[place] = mean, in_text(arm.accuracy, 2, 100)
        rows.append(Reading(name, styles[name], places, texts))
    heads = [f"{x:.4g} of dense" for x in stops]
    x_axis, y_axis = Axis("training FLOPs / dense", is_logarithmic=True), Axis(_ACCURACY)
    return Panel(f"sparsity {sparsity:g}", x_axis, y_axis, marks, Readings("xy", stops, heads, rows, "%"))


def arm_styles(network: NetworkResult, results: ComparisonResults) -> Mapping[str, Style]:
    """Return the style of each arm, by its name: the one that it has in other studies, if there is one.

    Args:
        network: the results on a network.
        results: the comparison.
    """
    comparison = results.comparison
    return styles_of(comparison.trials_with(network.network, [arm.arm({}) for arm in comparison.arms]))


def _mean_and_half(arm: ArmResult) -> tuple[float, float]:
    return 100 * (arm.accuracy.mean or 0.0), 100 * (arm.accuracy.half_width or 0.0)


def _with_trials(arms: Sequence[ArmResult]) -> list[ArmResult]:
    return [arm for arm in arms if arm.finished]


def _with_flops(arms: Sequence[ArmResult]) -> list[ArmResult]:
    return [arm for arm in _with_trials(arms) if arm.training_flops.mean]
