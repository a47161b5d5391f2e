"""The page of a study's report: what was asked, what came of it, beside the authors' results, and why."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from string import Template

import attrs

from sparsecore.report.figures import Figure
from sparsecore.report.page import STYLE, brief, definitions, figure_element
from sparsecore.study.arms import Arm
from sparsecore.study.comparison import LEVEL, Compared, Difference, Pair, mean_and_spread
from sparsecore.study.published_results import authors_of, source
from sparsecore.study.report.contents import Account, pairs_at
from sparsecore.study.report.panels import Picture
from sparsecore.study.report.styles import full_name

_BESIDE = (
    "the authors', mean ± std (%)",
    "difference (points)",
    "in pooled standard errors",
    "Welch's t",
    "p",
    "to be known",
)


def accuracies(account: Account) -> str:
    """A row a cell; the authors have columns where they have measured any of them."""
    beside = any(row.theirs for row in account.rows)
    head = ("arm", "sparsity", "trials", f"ours on {account.images.title}, mean ± std (%)")
    rows = ((*_ours(row, account), *(_theirs(row) if beside else ())) for row in account.rows)
    return table((*head, *(_BESIDE if beside else ())), rows)


def differing(account: Account) -> str:
    """Which arms differ at each sparsity, and how many pairs do not."""
    return "\n".join(_differing(account, sparsity) for sparsity in account.study.sparsities)


def trials(account: Account) -> str:
    """The accuracy of every single trial."""
    head = ("arm", "sparsity", *(f"trial {number}" for number in range(account.study.trials)))
    return table(head, (_single(row, account) for row in account.rows))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first cells are elements already, and whose others are text."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>\n'
        for first, *others in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def arm_element(arm: Arm, account: Account) -> str:
    """The arm's name beside its colour."""
    swatch = f'<span class="swatch" style="background: {account.look(arm).colour}"></span>'
    return f"{swatch}{escape(full_name(arm))}"


def _ours(row: Compared, account: Account) -> tuple[str, ...]:
    cell = row.cell
    counted = f"{len(cell.accuracies)} of {cell.wanted}"
    return arm_element(cell.arm, account), _sparsity(row), counted, mean_and_spread(row.ours) or "none yet"


def _theirs(row: Compared) -> tuple[str, ...]:
    counted = f" ({len(row.theirs)})" if row.theirs else ""
    return mean_and_spread(row.theirs) + counted, *difference_cells(row.difference), row.remark


def difference_cells(found: Difference | None) -> tuple[str, str, str, str]:
    """Difference, the same in standard errors, t and p; empty where nothing can be said."""
    if found is None:
        return "", "", "", ""
    return f"{found.of_means:+.2f}", f"{found.in_standard_errors:+.1f}", f"{found.t:+.2f}", f"{found.p:.2g}"


def _differing(account: Account, sparsity: float) -> str:
    found = pairs_at(account, sparsity)
    sure = [pair for pair in found if pair.difference.is_significant]
    told = f"<p>At sparsity {sparsity:g}, {len(sure)} of {len(found)} pairs differ at p &lt; {LEVEL:g}.</p>"
    if not sure:
        return told
    head = ("more accurate", "less accurate", "difference (points)", "in pooled standard errors", "Welch's t", "p")
    return told + table(head, _pair_rows(sure, account))


def _pair_rows(found: Iterable[Pair], account: Account) -> Iterator[tuple[str, ...]]:
    for pair in found:
        better, worse = (account.study.arm(name) for name in (pair.better, pair.worse))
        yield arm_element(better, account), full_name(worse), *difference_cells(pair.difference)


def _single(row: Compared, account: Account) -> tuple[str, ...]:
    return arm_element(row.cell.arm, account), _sparsity(row), *(f"{accuracy:.2f}" for accuracy in row.ours)


def _sparsity(row: Compared) -> str:
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


def page(account: Account, answer: Picture, pictures: Sequence[Picture]) -> str:
    """The whole page as HTML."""
    return _PAGE.substitute(
        title=escape(f"{account.study.title} – {account.protocol}"),
        style=STYLE + _STYLE,
        missing=_missing(account),
        protocol=definitions("experiment", _protocol(account)),
        source=escape(account.text),
        answer=_element(attrs.evolve(answer, title="Test accuracy")),
        accuracies=accuracies(account),
        authors=_authors(account),
        differing=differing(account),
        pictures="".join(map(_element, pictures)),
        trials=trials(account),
    )


def _element(picture: Picture) -> str:
    return figure_element(Figure(picture.title, picture.caption, picture.on_page))


def _missing(account: Account) -> str:
    missing = account.missing
    if not missing:
        return ""
    names = ", ".join(trial.name for trial in missing[:_MOST_NAMED])
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    every = len(missing) + len(account.courses)
    return f'<p class="unfinished">{len(missing)} of {every} trials have not finished: {escape(names + more)}.</p>'


def _protocol(account: Account) -> Iterable[tuple[str, str]]:
    training = account.tables["training"]
    yield "network", brief(account.tables["model"])
    yield "images", f"{account.images.title}; {brief(account.tables['data'])}"
    yield "training", f"of {account.study.arms[0].title}: {brief(training)}"
    yield "backend", brief(account.tables["backend"])
    yield "trials", f"{account.study.trials} of each arm at each sparsity, with other seeds"
    given = ", ".join(f"{name} {value}" for name, value in account.study.options.items())
    yield "given to the study", given or "nothing"


def _authors(account: Account) -> str:
    """Where the authors' numbers come from, or why there are none."""
    name, data = account.tables["model"]["name"], account.tables["data"]["name"]
    authors = authors_of(account.tables["model"], data)
    if authors is None:
        return f"<p>The authors have published no trials of {escape(f'{name} on {account.images.title}')}.</p>"
    if not account.images.published:
        told = f"The authors' trials of {name} are not set beside these: {account.images.title} is not what they used."
        return f"<p>{escape(told)}</p>"
    remarks = "".join(f" {arm}: {remark}." for arm, remark in authors.remarks.items())
    return (
        f"<p>The authors' trials (their number in brackets): {escape(source())}{escape(remarks)} "
        f"Their protocol: {escape(authors.protocol)}.</p>"
    )
