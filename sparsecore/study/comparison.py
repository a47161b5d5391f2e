"""The cells of a study (an arm at a sparsity), compared with one another and with the authors' results."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import sqrt
from statistics import fmean, stdev, variance
from typing import Any, Literal

import attrs

from sparsecore.extras import require
from sparsecore.study.definition import Arm, Study
from sparsecore.study.deviations import Deviation, deviations
from sparsecore.study.folder import StudyFolder, TrialResult
from sparsecore.study.images import StudyImages, describe_subset
from sparsecore.study.published_results import PublishedArm, PublishedResults, published_results_of
from sparsecore.study.trials import Trial, trials_of

SIGNIFICANCE_LEVEL = 0.05
"""Two arms are said to differ if p is below this."""


@attrs.frozen
class MeanDifference:
    """The difference between the means of two samples.

    Attributes:
        of_means: the difference, in the unit of the samples.
        standard_error: its standard error from the pooled variance s²: s·sqrt(1/n + 1/m).
        t: statistic of Welch's t-test, which does not pool the variances.
        p: two-sided p-value of that test.
    """

    of_means: float
    standard_error: float
    t: float
    p: float

    @property
    def in_standard_errors(self) -> float:
        """The difference in units of its pooled standard error."""
        return self.of_means / self.standard_error

    @property
    def is_significant(self) -> bool:
        """Whether p is below 0.05."""
        return self.p < SIGNIFICANCE_LEVEL


def mean_difference(ours: Sequence[float], theirs: Sequence[float]) -> MeanDifference | None:
    """Compute by how much the mean of the first sample exceeds that of the second, with Welch's t-test (Welch 1947).

    Args:
        ours: a sample of accuracies, in any unit.
        theirs: another one, in the same unit.

    Returns:
        The difference; None if a sample has fewer than two members, or if neither has any variance.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    welch = welch_test(ours, theirs)
    if welch is None:
        return None
    return MeanDifference(fmean(ours) - fmean(theirs), pooled_standard_error(ours, theirs), *welch)


def welch_test(
    first: Sequence[float], second: Sequence[float], alternative: Literal["two-sided", "greater"] = "two-sided"
) -> tuple[float, float] | None:
    """Compute Welch's t-test of the means of two samples, which may differ in variance (Welch 1947).

    Args:
        first: a sample, in any unit.
        second: another one, in the same unit.
        alternative: 'two-sided', or 'greater' to test whether the first mean is above the second.

    Returns:
        The statistic t and the p-value; None if a sample has fewer than two members, or if neither has any variance.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    if min(len(first), len(second)) < 2 or not variance(first) + variance(second):
        return None
    require("scipy", extra="report", purpose="a Welch test")
    # scipy takes a noticeable part of a second to import
    from scipy.stats import ttest_ind_from_stats

    moments = [moment for one in (first, second) for moment in (fmean(one), sqrt(variance(one)), len(one))]
    found = ttest_ind_from_stats(*moments, equal_var=False, alternative=alternative)
    return float(found.statistic), float(found.pvalue)


def pooled_standard_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Compute the standard error of the difference of two means, if both samples have one variance: s·√(1/n + 1/m).

    Args:
        ours: at least two numbers.
        theirs: at least two numbers, in the same unit.

    Returns:
        The error in the unit of the samples, with s² pooled over n + m - 2 degrees of freedom.

    Raises:
        statistics.StatisticsError: a sample has fewer than two members.
    """
    n, m = len(ours), len(theirs)
    pooled = ((n - 1) * variance(ours) + (m - 1) * variance(theirs)) / (n + m - 2)
    return sqrt(pooled * (1 / n + 1 / m))


@attrs.frozen
class ArmPair:
    """Two arms, and the difference between their mean accuracies.

    Attributes:
        better: the name of the arm with the higher mean.
        worse: the name of the other one.
        difference: the mean of the better arm minus that of the other; at least 0.
    """

    better: str
    worse: str
    difference: MeanDifference


def arm_pairs(samples: Mapping[str, Sequence[float]]) -> list[ArmPair]:
    """Compare every two samples.

    Args:
        samples: samples by the name of their arm.

    Returns:
        All pairs that can be compared, the smallest p first.
    """
    ordered = sorted((name for name in samples if samples[name]), key=lambda name: -fmean(samples[name]))
    found = [(one, other, mean_difference(samples[one], samples[other])) for one, other in combinations(ordered, 2)]
    pairs = (ArmPair(one, other, difference) for one, other, difference in found if difference)
    return sorted(pairs, key=lambda pair: pair.difference.p)


@attrs.frozen
class Cell:
    """The finished trials of an arm at a sparsity.

    Attributes:
        arm: the arm.
        sparsity: the sparsity; None for an arm that runs once.
        accuracies: test accuracies after the last epoch, in [0, 1], one for each finished trial in order.
        wanted: number of trials that the study has.
    """

    arm: Arm
    sparsity: float | None
    accuracies: tuple[float, ...]
    wanted: int

    @property
    def mean(self) -> float | None:
        """The mean accuracy; None without finished trials."""
        return fmean(self.accuracies) if self.accuracies else None

    @property
    def std(self) -> float | None:
        """The standard deviation of the sample (n - 1); None for fewer than two trials."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def finished_results(study: Study, folder: StudyFolder) -> dict[Trial, TrialResult]:
    """Read the results of the trials that have finished, in the order of the trials.

    Args:
        study: the study, which may be in execution.
        folder: its folder.

    Raises:
        InputError: the result of a trial is damaged, or belongs to another experiment.
    """
    found = ((trial, folder.result(trial)) for trial in trials_of(study))
    return {trial: result for trial, result in found if result is not None}


def _cells(study: Study, finished: Mapping[Trial, TrialResult]) -> list[Cell]:
    """Return the cells of a study, in the order of arms, then of sparsities."""
    found: dict[tuple[str, float | None], list[float]] = {}
    for trial in trials_of(study):
        accuracies = found.setdefault((trial.arm, trial.sparsity), [])
        if trial in finished:
            accuracies.append(finished[trial].test_accuracy)
    return [
        Cell(arm, sparsity, tuple(found[arm.name, sparsity]), study.trials)
        for arm in study.arms
        for sparsity in _sparsities(study, arm)
    ]


def _sparsities(study: Study, arm: Arm) -> Sequence[float | None]:
    return (None,) if arm.once else study.sparsities


@attrs.frozen
class CellComparison:
    """A cell compared with the authors' results; all accuracies in percent.

    Attributes:
        cell: the cell.
        published: the authors' accuracies, one for each trial; empty if there are none, or only of other images.
        difference: our mean minus the authors'; None if the experiments or the samples do not allow a comparison.
        remark: why there is no difference, or a reservation about it.
        deviations: the settings that differ from the authors', for which there is no difference then.
    """

    cell: Cell
    published: tuple[float, ...] = ()
    difference: MeanDifference | None = None
    remark: str = ""
    deviations: tuple[Deviation, ...] = ()

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The cell's test accuracies in percent, one for each finished trial."""
        return tuple(100 * accuracy for accuracy in self.cell.accuracies)


def compare_cells(
    study: Study, folder: StudyFolder, images: StudyImages, finished: Mapping[Trial, TrialResult]
) -> list[CellComparison]:
    """Compare the cells of a study with the authors' results.

    An accuracy is compared with the authors' where the settings are theirs; where they are not, the remark says which.

    Args:
        study: the study.
        folder: its folder.
        images: images of the study; only the published ones are compared.
        finished: the results of its finished trials; others are left out of their cells.

    Returns:
        The cells, in the order of arms, then of sparsities.
    """
    # trials of a cell differ in the seed only
    first = {(trial.arm, trial.sparsity): trial for trial in reversed(trials_of(study))}
    tables = {cell: _tables_of(trial, folder) for cell, trial in first.items()}
    # an arm may train for a part of the study's epochs
    epochs = max(own["training"]["epochs"] for (_, own), *_ in tables.values())
    return [_compare(cell, tables[cell.arm.name, cell.sparsity], epochs, images) for cell in _cells(study, finished)]


def _tables_of(trial: Trial, folder: StudyFolder) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the tables of a trial, and of those that it starts from, with the names of their arms."""
    earlier = _tables_of(trial.after, folder) if trial.after else []
    return [(trial.arm, folder.tables(trial)), *earlier]


def mean_and_spread(accuracies: Sequence[float]) -> str:
    """Format mean ± standard deviation (n - 1) of accuracies.

    Args:
        accuracies: in percent.

    Returns:
        For example '94.12 ± 0.08'; the mean alone of one accuracy, and an empty text without any.
    """
    if not accuracies:
        return ""
    spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{fmean(accuracies):.2f}{spread}"


def difference_texts(difference: MeanDifference | None) -> tuple[str, str, str, str]:
    """Format a difference for the cells of a table.

    Args:
        difference: of accuracies in percent; None where none could be computed.

    Returns:
        Percentage points, pooled standard errors, t and p; four empty texts for None.
    """
    if difference is None:
        return "", "", "", ""
    return (
        f"{difference.of_means:+.2f}",
        f"{difference.in_standard_errors:+.1f}",
        f"{difference.t:+.2f}",
        f"{difference.p:.2g}",
    )


def numbered_remarks(rows: Iterable[CellComparison]) -> dict[str, int]:
    """Return the remarks on rows of a table, each once, with their numbers from 1 on.

    Args:
        rows: of the table.
    """
    return {remark: number for number, remark in enumerate(dict.fromkeys(row.remark for row in rows if row.remark), 1)}


def _compare(
    cell: Cell, tables: Sequence[tuple[str, Mapping[str, Any]]], epochs: int, images: StudyImages
) -> CellComparison:
    own = tables[0][1]
    results = published_results_of(own["model"], own["data"]["name"]) if images.published else None
    published = results.accuracies(cell.arm.name, cell.sparsity) if results else ()
    if results is None or not published:
        return CellComparison(cell)
    differing = deviations(tables, results, cell.arm.name, epochs)
    reasons = _lengths(epochs, describe_subset(own["data"]), results)
    reasons += (
        [f"other settings than the authors': {'; '.join(one.sentence for one in differing)}"] if differing else []
    )
    if reasons:
        return CellComparison(cell, published, remark="; ".join(reasons), deviations=tuple(differing))
    difference = mean_difference([100 * accuracy for accuracy in cell.accuracies], published)
    return CellComparison(cell, published, difference, _reservation(results.arm(cell.arm.name), published))


def _reservation(arm: PublishedArm, published: Sequence[float]) -> str:
    return "the authors report one trial" if len(published) < 2 else arm.reservation


def _lengths(epochs: int, subset: str, results: PublishedResults) -> list[str]:
    """Describe by how much the study is shorter or longer than the authors' experiment; empty if it is as long."""
    if subset:
        return [f"shortened: {subset}"]
    if epochs == results.epochs:
        return []
    return [f"{'shortened' if epochs < results.epochs else 'lengthened'}: {epochs} of {results.epochs} epochs"]
