"""The HTML that all reports share: the frame of a page, charts, tables and lists."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from sparsecore.errors import printable
from sparsecore.report.charts import Chart, ColourScale
from sparsecore.report.colours import Style, classes, variables
from sparsecore.report.plane import swatch
from sparsecore.report.svg import panel_data, panel_svg, plane_of

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title>
<style>
$style</style>
<script>$theme</script>
</head>
<body>
<header>
<button type="button" id="theme" hidden title="switch between light and dark">Dark</button>
<h1>$title</h1>
$findings
</header>
<main>
$contents
</main>
<footer>
$folded
</footer>
<script>$script</script>
</body>
</html>
""")

_THEME = """\
try { const theme = localStorage.getItem("sparsecore-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme; } catch { /* none */ }"""
"""Before anything is shown, so that a page that is dark by choice does not flash."""


@cache
def _resource(name: str) -> str:
    return (files("sparsecore.report") / name).read_text("utf-8")


def _colours() -> str:
    """Return the declarations of light and dark colours: the reader's choice, else the system's; paper is light."""
    light, dark = variables(dark=False), variables(dark=True)
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ color-scheme: dark; {dark} }} }}\n"
        f":root[data-theme=dark] {{ color-scheme: dark; {dark} }}\n"
        f"@media print {{ :root:root:root {{ color-scheme: light; {light} }} }}\n"
        f"{classes()}\n"
    )


def _policy(*scripts: str) -> str:
    """Return a policy by which the page runs only these scripts, and loads nothing."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}; base-uri 'none'; "
        "form-action 'none'"
    )


def html_page(title: str, findings: Iterable[str], contents: Iterable[str], folded: Mapping[str, str]) -> str:
    """Return a whole page.

    Args:
        title: title of the page, as text.
        findings: elements below the title: what was found.
        contents: elements of the main part.
        folded: elements at the end that are folded away, by their titles, as text; empty ones are left out.
    """
    details = (f"<details><summary>{escape(name)}</summary>\n{one}\n</details>" for name, one in folded.items() if one)
    script = _resource("page.js")
    return _PAGE.substitute(
        title=escape(title),
        policy=_policy(_THEME, script),
        style=_colours() + _resource("page.css"),
        theme=_THEME,
        findings="\n".join(filter(None, findings)),
        contents="\n".join(filter(None, contents)),
        folded="\n".join(details),
        script=script,
    )


def source_element(text: str) -> str:
    """Return the text of a file, such as experiment.toml."""
    return f"<pre>{escape(text)}</pre>"


def definition_list(kind: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms with their descriptions; empty without any.

    Args:
        kind: class of the list in the style sheet: 'outcome', 'experiment' or 'effort'.
        rows: terms and descriptions, as text.
    """
    items = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>\n" for term, text in rows)
    return f'<dl class="{kind}">\n{items}</dl>' if items else ""


def findings_list(sentences: Iterable[str]) -> str:
    """Return a list of what was found; empty without any.

    Args:
        sentences: HTML.
    """
    items = "".join(f"<li>{sentence}</li>\n" for sentence in sentences)
    return f'<ul class="findings">\n{items}</ul>' if items else ""


def charts_element(charts: Iterable[Chart]) -> str:
    """Return charts side by side where they have room, then the reasons why others have nothing to show.

    Args:
        charts: the charts; those without a panel are listed by their captions.
    """
    shown = list(charts)
    drawn = "".join(chart_element(chart) for chart in shown if chart.panels)
    reasons = "".join(
        f'<p class="undrawn">{escape(f"{chart.title}: {chart.caption}")}</p>\n' for chart in shown if not chart.panels
    )
    return (f'<div class="charts">\n{drawn}</div>\n' if drawn else "") + reasons


def chart_element(chart: Chart) -> str:
    """Return a chart with its title, legend, panels, caption and CSV file.

    Args:
        chart: a chart with at least one panel.
    """
    keys = {name: f"k{number}" for number, (name, _) in enumerate(chart.legend)}
    planes = [plane_of(panel, keys) for panel in chart.panels]
    drawings = "".join(
        f"<div>{f'<h3>{escape(panel.title)}</h3>' if panel.title else ''}"
        f"{panel_svg(panel, plane, ', '.join(filter(None, (chart.title, panel.title))))}</div>\n"
        for panel, plane in zip(chart.panels, planes, strict=True)
    )
    data = [panel_data(panel, plane, keys) for panel, plane in zip(chart.panels, planes, strict=True)]
    wide = " wide" if chart.is_wide or len(chart.panels) > 1 else ""
    many = " many" if len(chart.panels) > 2 else ""  # three side by side are small
    link = (
        f'<a class="csv" download="{escape(chart.name)}.csv" title="download the data of this figure" '
        f'href="{escape(chart.table.link())}">CSV</a>'
        if chart.table.head
        else ""
    )
    return (
        f'<figure class="chart{wide}" id="{escape(chart.name)}">\n'
        f'<div class="head"><h2>{escape(chart.title)}</h2>{link}</div>\n'
        f'{_legend(chart, keys)}<div class="panels{many}">\n{drawings}</div>\n'
        f"<figcaption>{_scale(chart.scale)}{escape(chart.caption.strip())}</figcaption>\n"
        f'<script type="application/json">{_json(data)}</script>\n</figure>\n'
    )


def _scale(scale: ColourScale | None) -> str:
    if scale is None:
        return ""
    return f'{escape(scale.low)}<span class="gradient heat"></span>{escape(f"{scale.high} {scale.unit}")}. '


def _legend(chart: Chart, keys: Mapping[str, str]) -> str:
    entries = "".join(
        f'<li><label><input type="checkbox" checked value="{keys[name]}">{swatch(style)}'
        f"<span>{escape(printable(name))}</span></label></li>\n"
        for name, style in chart.legend
    )
    if not entries:
        return ""
    legend = f'<ul class="legend">\n{entries}</ul>\n'
    return f"<details><summary>{len(chart.legend)} lines</summary>\n{legend}</details>\n" if chart.is_folded else legend


def _json(data: Any) -> str:
    """Return JSON that ends no element of the page, whatever the names in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table_element(
    head: Sequence[str], rows: Iterable[Sequence[str]], foot: Sequence[str] = (), text_columns: int = 0
) -> str:
    """Return a table, which scrolls by itself where the page is too narrow for it.

    Args:
        head: titles of the columns, as text.
        rows: cells; the first of each row is HTML, the others are text.
        foot: cells of a last row, likewise; empty for none.
        text_columns: number of columns at the right that hold text and may wrap.
    """
    kinds = [""] * (len(head) - text_columns) + [' class="text"'] * text_columns
    titles = "".join(f'<th scope="col"{kind}>{escape(title)}</th>' for title, kind in zip(head, kinds, strict=True))
    body = "".join(_row(row, text_columns) for row in rows)
    footer = f"<tfoot>\n{_row(foot, text_columns)}</tfoot>\n" if foot else ""
    return (
        f'<div class="wide-table"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n{footer}'
        "</table></div>"
    )


def _row(cells: Sequence[str], text_columns: int) -> str:
    first, *others = cells
    numbers = len(others) - text_columns
    data = "".join(
        f"<td>{escape(cell)}</td>" if place < numbers else f'<td class="text">{escape(cell)}</td>'
        for place, cell in enumerate(others)
    )
    return f'<tr><th scope="row">{first}</th>{data}</tr>\n'


def named(name: str, style: Style) -> str:
    """Return the name of a series after its colour, as HTML.

    Args:
        name: the name, as text.
        style: its look in figures.
    """
    return f'<span class="swatch {escape(style.colour.name)}"></span>{escape(name)}'


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
