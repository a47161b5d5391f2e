"""A study's cells beside what the authors have measured of the same network on the same images."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import sqrt
from statistics import fmean, stdev, variance
from typing import Any

import attrs

from sparsecore.extras import require
from sparsecore.study.arms import Arm, Study
from sparsecore.study.experiments import Trial, trials_of
from sparsecore.study.folder import StudyFolder
from sparsecore.study.images import StudyImages, describe_subset
from sparsecore.study.published_results import PublishedResults, published_results_of

SIGNIFICANCE_LEVEL = 0.05
"""Below this p, two arms are said to differ."""


@attrs.frozen
class MeanDifference:
    """How much one sample's mean is above another's.

    Attributes:
        of_means: in the unit of the samples.
        standard_error: of that, from the pooled variance: s·sqrt(1/n + 1/m).
        t: of Welch's test, which does not pool.
        p: two-sided, likewise.
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
    """How much the mean of the first is above that of the second.

    None where nothing can be said: a sample of fewer than two, or two without any spread.
    """
    if min(len(ours), len(theirs)) < 2 or not variance(ours) + variance(theirs):
        return None
    require("scipy", extra="report", purpose="a Welch test")
    # scipy takes a fair part of a second to import
    from scipy.stats import ttest_ind_from_stats

    mean, other = fmean(ours), fmean(theirs)
    spread, spread_there = sqrt(variance(ours)), sqrt(variance(theirs))
    welch = ttest_ind_from_stats(mean, spread, len(ours), other, spread_there, len(theirs), equal_var=False)
    return MeanDifference(
        mean - other, pooled_standard_error(ours, theirs), float(welch.statistic), float(welch.pvalue)
    )


def pooled_standard_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the difference of the means, if both samples are of one variance; each has two members at least."""
    n, m = len(ours), len(theirs)
    pooled = ((n - 1) * variance(ours) + (m - 1) * variance(theirs)) / (n + m - 2)
    return sqrt(pooled * (1 / n + 1 / m))


@attrs.frozen
class ArmPair:
    """Two arms that can be compared, the one of the higher mean first."""

    better: str
    worse: str
    difference: MeanDifference


def arm_pairs(samples: Mapping[str, Sequence[float]]) -> list[ArmPair]:
    """Every two of the samples, by name, that can be compared; the surest difference first."""
    ordered = sorted((name for name in samples if samples[name]), key=lambda name: -fmean(samples[name]))
    found = [(one, other, mean_difference(samples[one], samples[other])) for one, other in combinations(ordered, 2)]
    return sorted(
        (ArmPair(one, other, known) for one, other, known in found if known), key=lambda pair: pair.difference.p
    )


@attrs.frozen
class Cell:
    """The finished trials of an arm at a sparsity.

    Attributes:
        arm: the arm.
        sparsity: of the study; None for an arm that runs once.
        accuracies: test accuracies after the last epoch, 0..1, in the order of the trials.
        wanted: how many trials there are to be.
    """

    arm: Arm
    sparsity: float | None
    accuracies: tuple[float, ...]
    wanted: int

    @property
    def mean(self) -> float | None:
        """Their mean; None where there are none."""
        return fmean(self.accuracies) if self.accuracies else None

    @property
    def std(self) -> float | None:
        """The standard deviation of the sample (n - 1); None of fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def cells(study: Study, folder: StudyFolder) -> list[Cell]:
    """In the order of arms, then of sparsities."""
    found: dict[tuple[str, float | None], list[float]] = {}
    for trial in trials_of(study):
        accuracies = found.setdefault((trial.arm, trial.sparsity), [])
        result = folder.result(trial)
        if result is not None:
            accuracies.append(float(result["test_accuracy"]))
    return [
        Cell(arm, sparsity, tuple(found[arm.name, sparsity]), study.trials)
        for arm in study.arms
        for sparsity in _sparsities(study, arm)
    ]


def _sparsities(study: Study, arm: Arm) -> Sequence[float | None]:
    return (None,) if arm.once else study.sparsities


@attrs.frozen
class CellComparison:
    """A cell beside the authors' trials; all accuracies in percent.

    Attributes:
        cell: ours.
        theirs: the authors', one a trial; none where they have none of this, or of other images.
        difference: ours above theirs; None where nothing can be said, or ought to be.
        remark: why not, or what else is to be known.
    """

    cell: Cell
    theirs: tuple[float, ...] = ()
    difference: MeanDifference | None = None
    remark: str = ""

    @property
    def ours(self) -> tuple[float, ...]:
        """Our test accuracies in percent, one a trial."""
        return tuple(100 * accuracy for accuracy in self.cell.accuracies)


def compare_cells(study: Study, folder: StudyFolder, images: StudyImages) -> list[CellComparison]:
    """Every cell of the study, in the order of :func:`sparsecore.study.comparison.cells`.

    Args:
        study: that of the folder.
        folder: with what was measured so far.
        images: on which; the authors' results are those of published images, and are set beside no others.
    """
    first = {arm.name: folder.tables(trial) for arm, trial in _firsts(study)}
    # an arm may last for a part of the study only
    epochs = max(tables["training"]["epochs"] for tables in first.values())
    return [_compared(cell, first[cell.arm.name], epochs, images) for cell in cells(study, folder)]


def mean_and_spread(accuracies: Sequence[float]) -> str:
    """Mean ± standard deviation of accuracies in percent; empty of none."""
    if not accuracies:
        return ""
    spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{fmean(accuracies):.2f}{spread}"


def _firsts(study: Study) -> Iterator[tuple[Arm, Trial]]:
    """Every arm, with one of its trials; they differ in seed and sparsity alone."""
    trials = trials_of(study)
    return ((arm, next(trial for trial in trials if trial.arm == arm.name)) for arm in study.arms)


def _compared(cell: Cell, tables: Mapping[str, Any], epochs: int, images: StudyImages) -> CellComparison:
    authors = published_results_of(tables["model"], tables["data"]["name"]) if images.published else None
    theirs = authors.accuracies(cell.arm, cell.sparsity) if authors else ()
    if authors is None or not theirs:
        return CellComparison(cell)
    otherwise = _otherwise(epochs, describe_subset(tables["data"]), authors)
    if otherwise:
        return CellComparison(cell, theirs, remark=otherwise)
    found = mean_difference([100 * accuracy for accuracy in cell.accuracies], theirs)
    return CellComparison(cell, theirs, found, _to_be_known(authors, theirs))


def _to_be_known(authors: PublishedResults, theirs: Sequence[float]) -> str:
    if len(theirs) < 2:
        return "the authors' is one trial"
    return "" if authors.epochs is not None else "for how many epochs the authors trained is not told"


def _otherwise(epochs: int, images: str, authors: PublishedResults) -> str:
    """In which respect the study is another experiment than the authors'; empty where it is none."""
    if images:
        return f"shortened: {images}"
    if authors.epochs is None or epochs == authors.epochs:
        return ""
    return f"{'shortened' if epochs < authors.epochs else 'lengthened'}: {epochs} of {authors.epochs} epochs"
