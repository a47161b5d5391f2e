"""The HTML that the pages of runs and studies share: frame, style sheet, figures, tables and lists."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from sparsecore.report.drawing import ReportFigure

_STYLE = """\
:root { color-scheme: light dark; --page: #fff; --ink: #1a1a1a; --soft: #555; --rule: #ddd; --band: #f7f7f7;
  --note: #fff8e8; }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --ink: #e6e6e6; --soft: #a8a8a8; --rule: #40444b;
  --band: #1f2227; --note: #2c2718; } }
body { margin: 2rem auto; max-width: 74rem; padding: 0 1.25rem; background: var(--page); color: var(--ink);
  font: 16px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.05rem; margin: 0 0 .4rem; }
h2.part { font-size: 1.25rem; margin: 2.5rem 0 .4rem; }
dl { margin: 0 0 1rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.outcome { display: flex; flex-wrap: wrap; gap: .75rem; }
.outcome div { border: 1px solid var(--rule); border-radius: .4rem; padding: .5rem .9rem; }
.outcome dd { font-size: 1.15rem; font-weight: 600; }
.unfinished { border-left: .3rem solid #e69f00; padding: .3rem .8rem; background: var(--note); }
.experiment div, .effort div { display: grid; grid-template-columns: 9rem 1fr; gap: 1rem; padding: .15rem 0; }
.experiment dt, .effort dt { font-size: inherit; }
summary { cursor: pointer; }
pre { overflow-x: auto; padding: .8rem; background: var(--band); font-size: .85rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 2rem; }
figure { margin: 2rem 0 0; }
figure svg { display: block; max-width: 100%; height: auto; fill: var(--ink); }
figure svg g[id*="hover-"] use { cursor: crosshair; }
figcaption, .undrawn { color: var(--soft); font-size: .9rem; }
.tensors { margin-top: 2.5rem; }
.wide { overflow-x: auto; margin: .5rem 0 1.5rem; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border: 1px solid #0004; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; }
tbody tr:nth-child(even) { background: var(--band); }
tfoot th, tfoot td { border-top: 2px solid #888; font-weight: 600; }
td.text { white-space: normal; }
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
$summary
<details><summary>$source_name</summary>
<pre>$source</pre>
</details>
</header>
<main>
$contents
</main>
</body>
</html>
""")


def html_page(title: str, summary: Iterable[str], source_name: str, source: str, contents: Iterable[str]) -> str:
    """Return a whole page.

    Args:
        title: title of the page, as text.
        summary: elements of the header below the title.
        source_name: name of the TOML file that the page is about.
        source: contents of that file, as text.
        contents: elements of the main part.
    """
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        summary="\n".join(filter(None, summary)),
        source_name=source_name,
        source=escape(source),
        contents="\n".join(filter(None, contents)),
    )


def definition_list(kind: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms with their descriptions.

    Args:
        kind: class of the list in the style sheet: 'outcome', 'experiment' or 'effort'.
        rows: terms and descriptions, as text.
    """
    items = (f"<div><dt>{escape(term)}</dt><dd>{escape(description)}</dd></div>\n" for term, description in rows)
    return f'<dl class="{kind}">\n{"".join(items)}</dl>'


def figure_element(figure: ReportFigure) -> str:
    """Return a figure with its title above and its caption below.

    Args:
        figure: its title and caption are text and escaped here; its drawing is an ``<svg>`` element and taken as it is.
    """
    # letters in the drawing are outlines, so screen readers get the title and the caption
    drawing = figure.svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.title)}"', 1)
    caption = escape(figure.caption.strip())
    return f"<figure>\n<h2>{escape(figure.title)}</h2>\n{drawing}\n<figcaption>{caption}</figcaption>\n</figure>\n"


def table_element(
    head: Sequence[str], rows: Iterable[Sequence[str]], foot: Sequence[str] = (), text_columns: int = 0
) -> str:
    """Return a table.

    Args:
        head: titles of the columns, as text.
        rows: cells; the first of each row is HTML, the others are text.
        foot: cells of a last row, likewise; empty for none.
        text_columns: number of columns at the right that hold text and may wrap.
    """
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(_row(row, text_columns) for row in rows)
    footer = f"<tfoot>\n{_row(foot, text_columns)}</tfoot>\n" if foot else ""
    return (
        f'<div class="wide"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n{footer}</table></div>'
    )


def _row(cells: Sequence[str], text_columns: int) -> str:
    first, *others = cells
    numbers = len(others) - text_columns
    data = "".join(
        f"<td>{escape(cell)}</td>" if place < numbers else f'<td class="text">{escape(cell)}</td>'
        for place, cell in enumerate(others)
    )
    return f'<tr><th scope="row">{first}</th>{data}</tr>\n'


def plugin_names(value: Any) -> str:
    """Return the name in a plugin's table, or those of a stack; of file.py:Object, the object.

    Args:
        value: a table with a ``name``, or a list of such; anything else, as in a file made by hand, gives no name.

    Returns:
        The names joined by ' + ', not escaped; empty if there are none.
    """
    tables = value if isinstance(value, list) else [value]
    names = [str(table["name"]) for table in tables if isinstance(table, Mapping) and "name" in table]
    return " + ".join(name.rpartition(":")[2] for name in names)


def describe_table(value: Any) -> str:
    """Return a table of an experiment in one line: its name, then its other keys, with nested values as JSON.

    Args:
        value: a table, or a single setting.

    Returns:
        Text, not escaped, such as 'wrn-28-2, dropout 0.1'.
    """
    if not isinstance(value, Mapping):
        return as_text(value)
    rest = (f"{key} {as_text(entry)}" for key, entry in value.items() if key != "name")
    return ", ".join([*filter(None, [plugin_names(value)]), *rest])


def as_text(value: Any) -> str:
    """Return a setting as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
