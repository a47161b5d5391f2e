"""Statistics of several samples: Holm's correction, Welch's analysis of variance, and letters for what differs."""

from collections.abc import Collection, Iterator, Sequence
from math import sqrt
from statistics import fmean, variance

import attrs

from sparsecore.extras import require


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of a family of tests by Holm's step-down procedure (Holm 1979).

    The tests whose corrected p is below α are rejected at the family-wise error rate α, however they depend on one
    another.

    Args:
        p_values: one for each test of the family, in [0, 1].

    Returns:
        The corrected p-values in the order of the given ones: the k-th smallest of m, counted from 0, times m - k, at
        least that of any smaller one and at most 1.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


@attrs.frozen
class AnalysisOfVariance:
    """Welch's test of whether the means of several samples are equal, which may differ in variance.

    Attributes:
        f: the statistic.
        between: its degrees of freedom between samples, their number minus 1.
        within: its degrees of freedom within samples.
        p: the p-value.
    """

    f: float
    between: int
    within: float
    p: float


def welch_anova(samples: Sequence[Sequence[float]]) -> AnalysisOfVariance | None:
    """Test whether the means of several samples are equal (Welch 1951, "On the comparison of several mean values").

    Args:
        samples: samples of one quantity, in any unit.

    Returns:
        The test; None for fewer than two samples, or if a sample has fewer than two members or no variance.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    if len(samples) < 2 or any(len(sample) < 2 or not variance(sample) for sample in samples):
        return None
    require("scipy", extra="report", purpose="an analysis of variance")
    # scipy takes a noticeable part of a second to import
    from scipy.stats import f as f_distribution

    count = len(samples)
    means = [fmean(sample) for sample in samples]
    weights = [len(sample) / variance(sample) for sample in samples]
    total = sum(weights)
    grand_mean = sum(weight * mean for weight, mean in zip(weights, means, strict=True)) / total
    spread = sum(weight * (mean - grand_mean) ** 2 for weight, mean in zip(weights, means, strict=True)) / (count - 1)
    lack = sum((1 - weight / total) ** 2 / (len(one) - 1) for weight, one in zip(weights, samples, strict=True))
    f = spread / (1 + 2 * (count - 2) / (count**2 - 1) * lack)
    within = (count**2 - 1) / (3 * lack)
    return AnalysisOfVariance(f, count - 1, within, float(f_distribution.sf(f, count - 1, within)))


def half_width(sample: Sequence[float], confidence: float = 0.95) -> float | None:
    """Return half the width of the confidence interval of a mean, by Student's t.

    Args:
        sample: the sample, in any unit.
        confidence: the probability that such an interval contains the mean of the population, in (0, 1).

    Returns:
        t·s/√n, in the unit of the sample; None for fewer than two members.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    if len(sample) < 2:
        return None
    require("scipy", extra="report", purpose="a confidence interval")
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, len(sample) - 1)) * sqrt(variance(sample) / len(sample))


def letters(names: Sequence[str], different: Collection[frozenset[str]]) -> dict[str, str]:
    """Return letters such that two names share one exactly if they do not differ (Piepho 2004, insert and absorb).

    Args:
        names: distinct names, the best first.
        different: the pairs that differ.

    Returns:
        The letters of each name in alphabetical order; 'a' is that of the first name.
    """
    groups = [frozenset(names)]
    for pair in different:
        split = [part for group in groups for part in ([group - {name} for name in pair] if pair <= group else [group])]
        groups = _without_subsets(split)
    order = {name: place for place, name in enumerate(names)}
    groups.sort(key=lambda group: sorted(order[name] for name in group))
    named = list(zip(_alphabet(), groups, strict=False))
    return {name: "".join(letter for letter, group in named if name in group) for name in names}


def _without_subsets(groups: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    distinct = list(dict.fromkeys(groups))
    return [group for group in distinct if not any(group < other for other in distinct)]


def _alphabet() -> Iterator[str]:
    """Yield a, b, ..., z, A, ..., Z, and then the same with primes, without end."""
    primes = ""
    while True:
        for first in ("a", "A"):
            yield from (f"{chr(ord(first) + place)}{primes}" for place in range(26))
        primes += "'"
