"""The page of a study's report: what was found, accuracies, which arms differ, the topologies, and the settings."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from statistics import fmean

import attrs

from sparsecore.report.charts import Chart
from sparsecore.report.html import (
    as_text,
    charts_element,
    definition_list,
    describe_table,
    findings_list,
    html_page,
    named,
    source_element,
    table_element,
)
from sparsecore.study.comparison import (
    SIGNIFICANCE_LEVEL,
    ArmPair,
    CellComparison,
    difference_texts,
    mean_and_spread,
    numbered_remarks,
)
from sparsecore.study.definition import Arm, Hypothesis
from sparsecore.study.hypotheses import hypothesis_texts
from sparsecore.study.published_results import published_results_of, source
from sparsecore.study.report.panels import full_name
from sparsecore.study.report.results import StudyResults, counted, pairs_at

_DIFFERENCE_HEAD = ("difference (points)", "in pooled standard errors", "Welch's t", "p")
_PUBLISHED_HEAD = ("the authors', mean ± std (%)", *_DIFFERENCE_HEAD, "remark")
_TEST = (
    "Welch's t-test of every two arms, two-sided. Trials are taken as independent, and p is not corrected for the "
    "number of pairs."
)
_HYPOTHESIS_HEAD = ("hypothesis", "sparsity", "difference (points)", "Welch's t", "p, one-sided", "p after Holm", "")
_MAX_NAMES = 12


def page(results: StudyResults, accuracy: Chart, topologies: Sequence[Chart], learning_rate: Chart) -> str:
    """Return the page of a study as HTML.

    Args:
        results: results of the study.
        accuracy: figure of the accuracies.
        topologies: figures of the topologies.
        learning_rate: figure of the learning rates.
    """
    return html_page(
        title=f"{results.study.title} – {results.protocol}",
        findings=[_missing(results), findings_list(_findings(results))],
        contents=[
            charts_element([attrs.evolve(accuracy, title="Test accuracy")]),
            _part("Test accuracy after the last epoch"),
            _accuracies(results),
            _authors(results),
            _hypotheses(results),
            _part("Which arms differ"),
            f"<p>{escape(_TEST)}</p>",
            *(_differences(results, sparsity) for sparsity in results.study.sparsities),
            _part("What the topologies did"),
            charts_element(topologies),
            _part("How the networks were trained"),
            charts_element([learning_rate]),
        ],
        folded={
            "Every trial: test accuracy (%)": _trials(results),
            "Settings": definition_list("experiment", _settings(results)),
            "Duration and machines": definition_list("effort", _effort(results)),
            "study.toml": source_element(results.text),
        },
    )


def _findings(results: StudyResults) -> Iterator[str]:
    """Yield what was found as sentences, in HTML: the best arm at each sparsity, and the verdicts on hypotheses."""
    for sparsity in results.study.sparsities:
        rows = [row for row in results.at(sparsity) if row.accuracies]
        if rows:
            best = max(rows, key=lambda row: fmean(row.accuracies))
            yield (
                f"Sparsity {sparsity:g}: <b>{escape(full_name(best.cell.arm))}</b> is the most accurate, "
                f"{mean_and_spread(best.accuracies)} %{_differs(best.cell.arm, pairs_at(results, sparsity), results)}."
            )
    if results.hypotheses:
        supported = sum(bool(one.is_supported) for one in results.hypotheses)
        untested = sum(one.is_supported is None for one in results.hypotheses)
        left = f", {untested} not testable yet" if untested else ""
        yield f"{supported} of {counted(len(results.hypotheses), 'test')} support their hypothesis{left}."


def _differs(best: Arm, pairs: Sequence[ArmPair], results: StudyResults) -> str:
    """Return from which arms the best one differs, as the end of a sentence in HTML."""
    own = [pair for pair in pairs if pair.better == best.name]
    if not own:
        return ""
    names = (full_name(results.study.arm(pair.worse)) for pair in own if pair.difference.is_significant)
    return f", and differs from {escape('; '.join(names)) or 'no other arm'}"


def _part(title: str) -> str:
    return f'<h2 class="part">{escape(title)}</h2>'


def _missing(results: StudyResults) -> str:
    missing = results.missing
    if not missing:
        return ""
    names = ", ".join(trial.name for trial in missing[:_MAX_NAMES])
    more = f" and {len(missing) - _MAX_NAMES} more" if len(missing) > _MAX_NAMES else ""
    total = len(missing) + len(results.histories)
    return f'<p class="unfinished">{len(missing)} of {total} trials have not finished: {escape(names + more)}.</p>'


def _settings(results: StudyResults) -> Iterable[tuple[str, str]]:
    yield "network", describe_table(results.tables["model"])
    yield "images", f"{results.images.title}; {describe_table(results.tables['data'])}"
    yield "training", f"of {results.study.arms[0].title}: {describe_table(results.tables['training'])}"
    yield "backend", describe_table(results.tables["backend"])
    yield "trials", f"{results.study.trials} of each arm at each sparsity, with different seeds"
    yield "options", ", ".join(f"{name} {as_text(value)}" for name, value in results.study.options.items()) or "none"


def _effort(results: StudyResults) -> Iterable[tuple[str, str]]:
    """Yield duration and machines; everything else on the page is the same on every machine."""
    seconds = [effort.seconds for effort in results.efforts.values() if effort.seconds]
    if seconds:
        mean = sum(seconds) / len(seconds)
        yield "duration", f"{sum(seconds):,.1f} s in {counted(len(seconds), 'trial')}, {mean:,.1f} s per trial"
    machines = Counter(effort.machine for effort in results.efforts.values() if effort.machine)
    if machines:
        texts = (f"{machine} ({counted(trials, 'trial')})" for machine, trials in machines.items())
        yield "computed on", "; ".join(machines if len(machines) == 1 else texts)


def _accuracies(results: StudyResults) -> str:
    """Return a table with a row for each cell, which tells from which arms of the same sparsity it differs."""
    differing = _differing(results)
    head = ("arm", "sparsity", "trials", f"ours on {results.images.title}, mean ± std (%)")
    rows = (
        (*_own_cells(row, results), "; ".join(differing.get((row.cell.arm.name, row.cell.sparsity), ())))
        for row in results.rows
    )
    return table_element((*head, f"differs from (p < {SIGNIFICANCE_LEVEL:g})"), rows, text_columns=1)


def _differing(results: StudyResults) -> dict[tuple[str, float | None], list[str]]:
    """Return the names of the arms from which an arm at a sparsity differs; None is the sparsity of one that runs once.

    Such an arm is compared at every sparsity, and the names have theirs in brackets.
    """
    found: dict[tuple[str, float | None], list[str]] = {}
    for sparsity in results.study.sparsities:
        for pair in pairs_at(results, sparsity):
            if pair.difference.is_significant:
                for name, other in ((pair.better, pair.worse), (pair.worse, pair.better)):
                    is_once = results.study.arm(name).once
                    suffix = f" (at {sparsity:g})" if is_once else ""
                    key = (name, None if is_once else sparsity)
                    found.setdefault(key, []).append(full_name(results.study.arm(other)) + suffix)
    return found


def _own_cells(row: CellComparison, results: StudyResults) -> tuple[str, ...]:
    cell = row.cell
    trials = f"{len(cell.accuracies)} of {cell.wanted}"
    return _arm(cell.arm, results), _sparsity(row), trials, mean_and_spread(row.accuracies) or "none yet"


def _authors(results: StudyResults) -> str:
    """Return a table of the authors' results and their source, or the reason why there are none."""
    name, data = results.tables["model"]["name"], results.tables["data"]["name"]
    published = published_results_of(results.tables["model"], data)
    if published is None:
        return f"<p>The authors have published no trials of {escape(f'{name} on {results.images.title}')}.</p>"
    if not results.images.published:
        text = f"The authors' trials of {name} are not compared: they did not train on {results.images.title}."
        return f"<p>{escape(text)}</p>"
    compared = [row for row in results.rows if row.published]
    notes = numbered_remarks(compared)
    rows = (
        (
            *_own_cells(row, results),
            f"{mean_and_spread(row.published)} ({len(row.published)})",
            *difference_texts(row.difference),
            f"note {notes[row.remark]}" if row.remark else "",
        )
        for row in compared
    )
    head = ("arm", "sparsity", "trials", "ours, mean ± std (%)", *_PUBLISHED_HEAD)
    table = table_element(head, rows) if compared else ""
    remarks = "".join(f"<li>{escape(remark)}</li>\n" for remark in notes)
    of_arms = "".join(f" {arm}: {remark}." for arm, remark in published.remarks.items())
    return (
        f"{_part('Compared with the authors')}\n{table}\n"
        + (f"<ol>\n{remarks}</ol>\n" if remarks else "")
        + f"<p>The authors' trials (their number in brackets): {escape(source())}{escape(of_arms)} "
        f"Their protocol: {escape(published.protocol)}.</p>"
    )


def _hypotheses(results: StudyResults) -> str:
    """Return the hypotheses of the study and how they were tested; empty if there are none."""
    found = results.hypotheses
    if not found:
        return ""
    text = (
        "Written down in the study before its first trial, each tested by Welch's t-test, one-sided, at each sparsity. "
        f"Holm's correction is over all {counted(len(found), 'test')}, where one that cannot be computed yet counts as "
        f"p = 1. A hypothesis is supported if p is then below {SIGNIFICANCE_LEVEL:g}."
    )
    rows = ((_hypothesis(one.hypothesis, results), *hypothesis_texts(one)) for one in found)
    table = table_element(_HYPOTHESIS_HEAD, rows, text_columns=1)
    return f"{_part('Hypotheses')}\n<p>{escape(text)}</p>\n{table}"


def _hypothesis(hypothesis: Hypothesis, results: StudyResults) -> str:
    better, worse = (_arm(results.study.arm(name), results) for name in (hypothesis.better, hypothesis.worse))
    return f"{better} &gt; {worse}"


def _differences(results: StudyResults, sparsity: float) -> str:
    """Return which arms differ at a sparsity, and how many pairs do not."""
    pairs = pairs_at(results, sparsity)
    significant = [pair for pair in pairs if pair.difference.is_significant]
    summary = (
        f"<p>At sparsity {sparsity:g}, {len(significant)} of {len(pairs)} pairs differ at "
        f"p &lt; {SIGNIFICANCE_LEVEL:g}.</p>"
    )
    if not significant:
        return summary
    head = ("more accurate", "less accurate", *_DIFFERENCE_HEAD)
    return summary + "\n" + table_element(head, _pair_rows(significant, results))


def _pair_rows(pairs: Iterable[ArmPair], results: StudyResults) -> Iterator[tuple[str, ...]]:
    for pair in pairs:
        better, worse = (results.study.arm(name) for name in (pair.better, pair.worse))
        yield _arm(better, results), full_name(worse), *difference_texts(pair.difference)


def _trials(results: StudyResults) -> str:
    """Return a table of the accuracy of each trial; the cell of one that has not finished is empty."""
    numbers = range(results.study.trials)
    known = {(trial.arm, trial.sparsity, trial.number): accuracy for trial, accuracy in results.accuracies}

    def cell(row: CellComparison, number: int) -> str:
        accuracy = known.get((row.cell.arm.name, row.cell.sparsity, number))
        return "" if accuracy is None else f"{100 * accuracy:.2f}"

    head = ("arm", "sparsity", *(f"trial {number}" for number in numbers))
    rows = (
        (_arm(row.cell.arm, results), _sparsity(row), *(cell(row, number) for number in numbers))
        for row in results.rows
    )
    return table_element(head, rows)


def _arm(arm: Arm, results: StudyResults) -> str:
    """Return the name of an arm with its colour, as HTML."""
    return named(full_name(arm), results.style_of(arm))


def _sparsity(row: CellComparison) -> str:
    return "" if row.cell.sparsity is None else f"{row.cell.sparsity:g}"
