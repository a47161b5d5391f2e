"""The page of a study's report: what was asked, what came of it, beside the authors' results, and why."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from string import Template

import attrs

from sparsecore.report.figures import ReportFigure
from sparsecore.report.page import STYLE, brief, definitions, figure_element
from sparsecore.study.arms import Arm
from sparsecore.study.comparison import SIGNIFICANCE_LEVEL, ArmPair, CellComparison, MeanDifference, mean_and_spread
from sparsecore.study.published_results import published_results_of, source
from sparsecore.study.report.contents import StudyResults, pairs_at
from sparsecore.study.report.panels import StudyFigure
from sparsecore.study.report.styles import full_name

_BESIDE = (
    "the authors', mean ± std (%)",
    "difference (points)",
    "in pooled standard errors",
    "Welch's t",
    "p",
    "to be known",
)


def accuracies(results: StudyResults) -> str:
    """A row a cell; the authors have columns where they have measured any of them."""
    beside = any(row.theirs for row in results.rows)
    head = ("arm", "sparsity", "trials", f"ours on {results.images.title}, mean ± std (%)")
    rows = ((*_ours(row, results), *(_theirs(row) if beside else ())) for row in results.rows)
    return table((*head, *(_BESIDE if beside else ())), rows)


def differing(results: StudyResults) -> str:
    """Which arms differ at each sparsity, and how many pairs do not."""
    return "\n".join(_differing(results, sparsity) for sparsity in results.study.sparsities)


def trials(results: StudyResults) -> str:
    """The accuracy of every single trial."""
    head = ("arm", "sparsity", *(f"trial {number}" for number in range(results.study.trials)))
    return table(head, (_single(row, results) for row in results.rows))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first cells are elements already, and whose others are text."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>\n'
        for first, *others in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def arm_element(arm: Arm, results: StudyResults) -> str:
    """The arm's name beside its colour."""
    swatch = f'<span class="swatch" style="background: {results.style_of(arm).colour}"></span>'
    return f"{swatch}{escape(full_name(arm))}"


def _ours(row: CellComparison, results: StudyResults) -> tuple[str, ...]:
    cell = row.cell
    counted = f"{len(cell.accuracies)} of {cell.wanted}"
    return arm_element(cell.arm, results), _sparsity(row), counted, mean_and_spread(row.ours) or "none yet"


def _theirs(row: CellComparison) -> tuple[str, ...]:
    counted = f" ({len(row.theirs)})" if row.theirs else ""
    return mean_and_spread(row.theirs) + counted, *difference_cells(row.difference), row.remark


def difference_cells(found: MeanDifference | None) -> tuple[str, str, str, str]:
    """Difference, the same in standard errors, t and p; empty where nothing can be said."""
    if found is None:
        return "", "", "", ""
    return f"{found.of_means:+.2f}", f"{found.in_standard_errors:+.1f}", f"{found.t:+.2f}", f"{found.p:.2g}"


def _differing(results: StudyResults, sparsity: float) -> str:
    found = pairs_at(results, sparsity)
    sure = [pair for pair in found if pair.difference.is_significant]
    told = (
        f"<p>At sparsity {sparsity:g}, {len(sure)} of {len(found)} pairs differ at p &lt; {SIGNIFICANCE_LEVEL:g}.</p>"
    )
    if not sure:
        return told
    head = ("more accurate", "less accurate", "difference (points)", "in pooled standard errors", "Welch's t", "p")
    return told + table(head, _pair_rows(sure, results))


def _pair_rows(found: Iterable[ArmPair], results: StudyResults) -> Iterator[tuple[str, ...]]:
    for pair in found:
        better, worse = (results.study.arm(name) for name in (pair.better, pair.worse))
        yield arm_element(better, results), full_name(worse), *difference_cells(pair.difference)


def _single(row: CellComparison, results: StudyResults) -> tuple[str, ...]:
    return arm_element(row.cell.arm, results), _sparsity(row), *(f"{accuracy:.2f}" for accuracy in row.ours)


def _sparsity(row: CellComparison) -> str:
    return "" if row.cell.sparsity is None else f"{row.cell.sparsity:g}"


_STYLE = """\
.wide { overflow-x: auto; margin: .5rem 0 1.5rem; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border: 1px solid #0004; }
h2.part { font-size: 1.25rem; margin: 2.5rem 0 .4rem; }
td:last-child { white-space: normal; }
"""
_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$missing
$protocol
<details><summary>study.toml</summary>
<pre>$source</pre>
</details>
</header>
<main>
$answer
<h2 class="part">Test accuracy after the last epoch</h2>
$accuracies
$authors
<h2 class="part">Which arms differ</h2>
<p>Welch's test of every two arms, two-sided; trials are taken as independent, and p is not corrected for the number of
pairs.</p>
$differing
<h2 class="part">What the topologies did</h2>
$pictures
<details><summary>Every trial: test accuracy (%)</summary>
$trials
</details>
</main>
</body>
</html>
""")
_MOST_NAMED = 12


def page(results: StudyResults, answer: StudyFigure, pictures: Sequence[StudyFigure]) -> str:
    """The whole page as HTML."""
    return _PAGE.substitute(
        title=escape(f"{results.study.title} – {results.protocol}"),
        style=STYLE + _STYLE,
        missing=_missing(results),
        protocol=definitions("experiment", _protocol(results)),
        source=escape(results.text),
        answer=_element(attrs.evolve(answer, title="Test accuracy")),
        accuracies=accuracies(results),
        authors=_authors(results),
        differing=differing(results),
        pictures="".join(map(_element, pictures)),
        trials=trials(results),
    )


def _element(picture: StudyFigure) -> str:
    return figure_element(ReportFigure(picture.title, picture.caption, picture.on_page))


def _missing(results: StudyResults) -> str:
    missing = results.missing
    if not missing:
        return ""
    names = ", ".join(trial.name for trial in missing[:_MOST_NAMED])
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    every = len(missing) + len(results.histories)
    return f'<p class="unfinished">{len(missing)} of {every} trials have not finished: {escape(names + more)}.</p>'


def _protocol(results: StudyResults) -> Iterable[tuple[str, str]]:
    training = results.tables["training"]
    yield "network", brief(results.tables["model"])
    yield "images", f"{results.images.title}; {brief(results.tables['data'])}"
    yield "training", f"of {results.study.arms[0].title}: {brief(training)}"
    yield "backend", brief(results.tables["backend"])
    yield "trials", f"{results.study.trials} of each arm at each sparsity, with other seeds"
    given = ", ".join(f"{name} {value}" for name, value in results.study.options.items())
    yield "given to the study", given or "nothing"


def _authors(results: StudyResults) -> str:
    """Where the authors' numbers come from, or why there are none."""
    name, data = results.tables["model"]["name"], results.tables["data"]["name"]
    authors = published_results_of(results.tables["model"], data)
    if authors is None:
        return f"<p>The authors have published no trials of {escape(f'{name} on {results.images.title}')}.</p>"
    if not results.images.published:
        told = f"The authors' trials of {name} are not set beside these: {results.images.title} is not what they used."
        return f"<p>{escape(told)}</p>"
    remarks = "".join(f" {arm}: {remark}." for arm, remark in authors.remarks.items())
    return (
        f"<p>The authors' trials (their number in brackets): {escape(source())}{escape(remarks)} "
        f"Their protocol: {escape(authors.protocol)}.</p>"
    )
