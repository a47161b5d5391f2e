"""The page of a study's report: what was asked, what came of it, beside the authors' results, and why."""

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

import attrs

from sparsecore.report.elements import brief, definitions, figure_element
from sparsecore.report.figures import Figure
from sparsecore.report.style import STYLE
from sparsecore.study.authors import authors_of, source
from sparsecore.study.report import tables
from sparsecore.study.report.account import Account
from sparsecore.study.report.panels import Picture

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
        accuracies=tables.accuracies(account),
        authors=_authors(account),
        differing=tables.differing(account),
        pictures="".join(map(_element, pictures)),
        trials=tables.trials(account),
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
