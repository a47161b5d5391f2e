"""The tables of a comparison of strategies as texts, for the terminal, the page and Markdown."""

from collections.abc import Iterator, Mapping, Sequence

import attrs

from sparsecore.experiment.toml_files import inline_toml
from sparsecore.report.charts import Chart
from sparsecore.study.comparison import SIGNIFICANCE_LEVEL
from sparsecore.study.report.results import counted
from sparsecore.study.strategy_comparison.results import (
    ArmResult,
    ComparisonResults,
    Measurement,
    NetworkResult,
    SparsityResult,
)
from sparsecore.study.strategy_comparison.tuning import TuningRun, best_run

LEGEND = (
    "Means of the trials ± half the width of their 95 % confidence interval (Student's t). Strategies with a letter in "
    f"common do not differ in accuracy: p ≥ {SIGNIFICANCE_LEVEL:g} in Welch's t-test, two-sided, corrected by Holm for "
    "all pairs of the table. Of a text, accuracy and loss are those of the next character. Training FLOPs are relative "
    "to those of as many steps of the dense network. Densities are the share of active weights, in the mean over all "
    "steps and at the end. The ITOP rate is the share of positions that were ever active. Seconds are wall time."
)
"""The explanation of the tables."""


_WHOLE_SECONDS = 10
"""Durations from here on have no digits behind the decimal point."""


@attrs.frozen
class Table:
    """A table of texts.

    Attributes:
        head: titles of the columns.
        rows: cells; the first of each row is a name, the others are numbers or short texts.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown, with the first column as code and the others aligned at the right."""
        lines = [self.head, ("---", *("---:" for _ in self.head[1:]))]
        lines += [(f"`{name}`", *cells) for name, *cells in self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def sparsity_table(result: SparsityResult, trials: int) -> Table:
    """Return the table of a network at a sparsity.

    Args:
        result: the results.
        trials: number of trials of each arm, to mark arms with fewer.
    """
    head = (
        "strategy",
        "test accuracy, %",
        "differ",
        "test loss, nats",
        "training FLOPs",
        "mean density, %",
        "density at the end, %",
        "ITOP rate",
        "seconds",
    )
    return Table(head, tuple(_cells(arm, trials) for arm in result.arms))


def _cells(result: ArmResult, trials: int) -> tuple[str, ...]:
    accuracy, finished = in_text(result.accuracy, 2, 100) or "none yet", len(result.finished)
    return (
        result.arm.name,
        accuracy if finished in {0, trials} else f"{accuracy} ({finished} of {trials})",
        result.letters,
        in_text(result.loss, 3),
        in_text(result.training_flops, 3),
        in_text(result.mean_density, 1, 100),
        in_text(result.final_density, 1, 100),
        in_text(result.explored, 3),
        in_text(result.seconds, 0 if (result.seconds.mean or 0.0) >= _WHOLE_SECONDS else 1),
    )


def in_text(measurement: Measurement, digits: int, unit: float = 1.0) -> str:
    """Return mean ± half width of the interval.

    Args:
        measurement: what was measured.
        digits: digits behind the decimal point.
        unit: factor of all numbers, such as 100 for percent.

    Returns:
        For example '94.12 ± 0.08'; the mean alone if there is no interval or it is rounded to zero, and an empty text
        without a mean.
    """
    if measurement.mean is None:
        return ""
    mean = f"{unit * measurement.mean:.{digits}f}"
    half = f"{unit * (measurement.half_width or 0.0):.{digits}f}"
    return f"{mean} ± {half}" if float(half) else mean


def tests_in_words(result: SparsityResult) -> str:
    """Return what the tests say of all arms of a sparsity together."""
    if not result.pairs:
        return "No two strategies can be compared yet: each needs two finished trials."
    differing = sum(pair.differ for pair in result.pairs)
    pairs = f"{differing} of {len(result.pairs)} pairs differ after Holm's correction."
    if result.anova is None:
        return f"{pairs} There is no analysis of variance, as an arm has fewer than two trials or equal ones."
    anova = result.anova
    statistic = f"F({anova.between}, {anova.within:.1f}) = {anova.f:.3g}, p = {anova.p:.2g}"
    return f"Welch's analysis of variance: {statistic}; {pairs}"


def tuning_table(result: NetworkResult) -> Table:
    """Return the table of the settings that were the best in the tuning."""
    rows = tuple((name, *_tuning_cells(runs)) for name, runs in result.tuning.items())
    return Table(("strategy", "runs", "held-out accuracy, %", "with the presets, %", "best settings"), rows)


def _tuning_cells(runs: Sequence[TuningRun]) -> tuple[str, ...]:
    best = best_run(list(runs))
    finished = sum(run.accuracy is not None for run in runs)
    settings = {} if best is None else best.settings
    texts = (f"{name.removeprefix('strategy.')} = {_short(value)}" for name, value in settings.items())
    return (
        f"{len(runs)}" if finished == len(runs) else f"{finished} of {len(runs)}",
        _percent(None if best is None else best.accuracy),
        _percent(runs[0].accuracy),
        ", ".join(texts) or ("none: every run failed" if best is None else "the presets'"),
    )


def _short(value: object) -> str:
    return inline_toml(value).replace('"', "")


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.2f}"


def short_protocol(result: NetworkResult, results: ComparisonResults) -> str:
    """Return network, images, epochs and trials in one line, for the titles of figures."""
    return f"{result.title}, {counted(result.epochs or 0, 'epoch')}, {counted(results.comparison.trials, 'trial')}"


def protocol(result: NetworkResult, results: ComparisonResults) -> str:
    """Return how a network was trained and tuned, in one paragraph."""
    comparison, network = results.comparison, result.network
    epochs = "" if result.epochs is None else f", {counted(result.epochs, 'epoch')}"
    return (
        f"{result.title}{epochs}, {counted(comparison.trials, 'trial')} of each strategy. Each was tuned with "
        f"{counted(comparison.tuning_runs, 'run')} at sparsity {network.tuned_at:g}, tested on {network.held_out:,} "
        "held-out training images: the first with the settings of the presets, the others with learning rates and "
        "options drawn around them."
    )


def markdown(results: ComparisonResults, figures: Mapping[str, Sequence[Chart]]) -> str:
    """Return a page in Markdown with all tables and figures.

    Args:
        results: results of the comparison.
        figures: figures of each network, by its name, whose files are in ``figures/``.
    """
    parts = [part for one in results.networks for part in _markdown_parts(one, results, figures[one.network.name])]
    return "\n\n".join(["# Strategies compared", LEGEND, *parts]) + "\n"


def _markdown_parts(network: NetworkResult, results: ComparisonResults, figures: Sequence[Chart]) -> Iterator[str]:
    yield f"## {network.title}"
    yield protocol(network, results)
    if network.unfinished:
        yield f"{counted(len(network.unfinished), 'run')} not finished."
    yield from (f"![{one.title}](figures/{one.name}.svg)" for one in figures if one.panels)
    for one in network.sparsities:
        yield f"### Sparsity {one.sparsity:g}"
        yield tests_in_words(one)
        yield sparsity_table(one, results.comparison.trials).markdown()
    yield "### The settings that the tuning chose"
    yield tuning_table(network).markdown()
    if network.machines:
        yield f"Computed on {'; '.join(network.machines)}."
