"""Whether two arms differ: the difference of means, in units of its standard error, and Welch's test."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from statistics import fmean, variance

import attrs

LEVEL = 0.05
"""Below this p, two arms are said to differ."""


@attrs.frozen
class Difference:
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
        return self.p < LEVEL


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference | None:
    """How much the mean of the first is above that of the second.

    None where nothing can be said: a sample of fewer than two, or two without any spread.
    """
    if min(len(ours), len(theirs)) < 2 or not variance(ours) + variance(theirs):
        return None
    # scipy takes a fair part of a second to import
    from scipy.stats import ttest_ind_from_stats

    mean, other = fmean(ours), fmean(theirs)
    spread, spread_there = sqrt(variance(ours)), sqrt(variance(theirs))
    welch = ttest_ind_from_stats(mean, spread, len(ours), other, spread_there, len(theirs), equal_var=False)
    return Difference(mean - other, pooled_standard_error(ours, theirs), float(welch.statistic), float(welch.pvalue))


def pooled_standard_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the difference of the means, if both samples are of one variance; each has two members at least."""
    n, m = len(ours), len(theirs)
    pooled = ((n - 1) * variance(ours) + (m - 1) * variance(theirs)) / (n + m - 2)
    return sqrt(pooled * (1 / n + 1 / m))


@attrs.frozen
class Pair:
    """Two arms that can be compared, the one of the higher mean first."""

    better: str
    worse: str
    difference: Difference


def pairs(samples: Mapping[str, Sequence[float]]) -> list[Pair]:
    """Every two of the samples, by name, that can be compared; the surest difference first."""
    ordered = sorted((name for name in samples if samples[name]), key=lambda name: -fmean(samples[name]))
    found = [(one, other, difference(samples[one], samples[other])) for one, other in combinations(ordered, 2)]
    return sorted((Pair(one, other, known) for one, other, known in found if known), key=lambda pair: pair.difference.p)
