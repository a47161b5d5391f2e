"""The hypotheses of a study, tested one-sided at each sparsity, with Holm's correction over all of its tests."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import attrs

from sparsecore.study.comparison import SIGNIFICANCE_LEVEL, Cell, welch_test
from sparsecore.study.definition import Hypothesis, Study
from sparsecore.study.multiple_comparisons import holm


@attrs.frozen
class OneSidedTest:
    """Welch's t-test of whether the mean of one population is above that of another.

    Attributes:
        difference: the difference between the means of the samples, in their unit.
        t: the statistic.
        p: the probability of a t at least as large if the means were equal.
    """

    difference: float
    t: float
    p: float


def one_sided_welch(better: Sequence[float], worse: Sequence[float]) -> OneSidedTest | None:
    """Test whether the first sample's mean is above the second's (Welch 1947, one-sided).

    Args:
        better: the sample that is expected to have the higher mean, in any unit.
        worse: the other sample, in the same unit.

    Returns:
        The test; None if a sample has fewer than two members, or if neither has any variance.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    welch = welch_test(better, worse, "greater")
    return None if welch is None else OneSidedTest(fmean(better) - fmean(worse), *welch)


@attrs.frozen
class HypothesisResult:
    """A hypothesis at a sparsity, and what the finished trials say about it.

    Attributes:
        hypothesis: the hypothesis.
        sparsity: a sparsity of the study; None if both arms run once.
        test: the test, in percentage points; None while it cannot be computed.
        corrected_p: p after Holm's correction over all tests of the study, those included that cannot be computed yet;
            None for these.
    """

    hypothesis: Hypothesis
    sparsity: float | None
    test: OneSidedTest | None
    corrected_p: float | None

    @property
    def is_supported(self) -> bool | None:
        """Whether the corrected p is below 0.05; None while the test cannot be computed."""
        return None if self.corrected_p is None else self.corrected_p < SIGNIFICANCE_LEVEL

    @property
    def verdict(self) -> str:
        """The result in one or two words, for tables."""
        return {None: "not testable yet", True: "supported", False: "not supported"}[self.is_supported]


def evaluate_hypotheses(study: Study, cells: Sequence[Cell]) -> list[HypothesisResult]:
    """Test the hypotheses of a study on the trials finished so far.

    Holm's correction is over all tests that the study will have at its end. One that cannot be computed yet counts as
    p = 1, so that no verdict is easier to reach before the study has finished.

    Args:
        study: the study.
        cells: its cells.

    Returns:
        A result for each hypothesis at each sparsity, in the order of hypotheses, then of sparsities; empty for a study
        without hypotheses.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    samples = {(cell.arm.name, cell.sparsity): [100 * accuracy for accuracy in cell.accuracies] for cell in cells}
    found = [
        (hypothesis, sparsity, _test(study, hypothesis, sparsity, samples))
        for hypothesis in study.hypotheses
        for sparsity in _sparsities(study, hypothesis)
    ]
    corrected = holm([1.0 if test is None else test.p for _, _, test in found])
    return [
        HypothesisResult(hypothesis, sparsity, test, None if test is None else p)
        for (hypothesis, sparsity, test), p in zip(found, corrected, strict=True)
    ]


def _sparsities(study: Study, hypothesis: Hypothesis) -> Sequence[float | None]:
    all_once = study.arm(hypothesis.better).once and study.arm(hypothesis.worse).once
    return (None,) if all_once else study.sparsities


def _test(
    study: Study,
    hypothesis: Hypothesis,
    sparsity: float | None,
    samples: Mapping[tuple[str, float | None], Sequence[float]],
) -> OneSidedTest | None:
    better, worse = (
        samples[name, None if study.arm(name).once else sparsity] for name in (hypothesis.better, hypothesis.worse)
    )
    return one_sided_welch(better, worse)


def hypothesis_texts(one: HypothesisResult) -> tuple[str, ...]:
    """Format what was found for the cells of a table.

    Args:
        one: a hypothesis at a sparsity.

    Returns:
        Sparsity, difference in percentage points, Welch's t, one-sided p, p after Holm's correction, and the verdict.
    """
    numbers = ("", "", "", "")
    if one.test is not None:
        test = one.test
        numbers = (f"{test.difference:+.2f}", f"{test.t:+.2f}", f"{test.p:.2g}", f"{one.corrected_p:.2g}")
    return "" if one.sparsity is None else f"{one.sparsity:g}", *numbers, one.verdict


def hypothesis_json(one: HypothesisResult) -> dict[str, Any]:
    """Return the numbers of a hypothesis at a sparsity as JSON.

    Args:
        one: the hypothesis at a sparsity.

    Returns:
        Names of the arms, sparsity, difference in percentage points, t, p, p after Holm's correction, and whether the
        hypothesis is supported; None for what cannot be computed yet.
    """
    test = {"difference": None, "t": None, "p": None} if one.test is None else attrs.asdict(one.test)
    return {
        "better": one.hypothesis.better,
        "worse": one.hypothesis.worse,
        "sparsity": one.sparsity,
        **test,
        "corrected_p": one.corrected_p,
        "supported": one.is_supported,
    }
