"""The report's page: what was run, what came of it, the figures, and a table of the tensors."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from string import Template
from typing import Any

from sparsecore.report.figures import (
    SIZE,
    WHOLE_WIDTH,
    ReportFigure,
    accuracy,
    active_parameters,
    densities,
    learning_rate,
    loss,
    pruned_and_grown,
    strategy_metrics,
)
from sparsecore.report.reading import RunRecord
from sparsecore.run.logs import Effort, Result


def name_of(value: Any) -> str:
    """What a table, or each of an array of tables, calls itself."""
    tables = value if isinstance(value, list) else [value]
    names = [str(table["name"]) for table in tables if isinstance(table, Mapping) and "name" in table]
    return " + ".join(name.rpartition(":")[2] for name in names)  # of file.py:Object, the object


def brief(value: Any) -> str:
    """A table is its name and then its other keys; what lies deeper is written as JSON."""
    if not isinstance(value, Mapping):
        return _written(value)
    rest = (f"{key} {_written(entry)}" for key, entry in value.items() if key != "name")
    return ", ".join([*filter(None, [name_of(value)]), *rest])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def definitions(kind: str, rows: Iterable[tuple[str, str]]) -> str:
    """A list of terms with their descriptions; ``kind`` is its class in the style sheet."""
    items = (f"<div><dt>{escape(term)}</dt><dd>{escape(description)}</dd></div>\n" for term, description in rows)
    return f'<dl class="{kind}">\n{"".join(items)}</dl>'


def figure_element(figure: ReportFigure) -> str:
    """A figure with its title above and its caption below."""
    # the drawing's letters are outlines, so that the caption and the label speak for it
    drawing = figure.svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.title)}"', 1)
    caption = escape(figure.caption.strip())
    return f"<figure>\n<h2>{escape(figure.title)}</h2>\n{drawing}\n<figcaption>{caption}</figcaption>\n</figure>\n"


STYLE = """\
:root { color-scheme: light dark; --page: #fff; --ink: #1a1a1a; --soft: #555; --rule: #ddd; --band: #f7f7f7;
  --note: #fff8e8; }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --ink: #e6e6e6; --soft: #a8a8a8; --rule: #40444b;
  --band: #1f2227; --note: #2c2718; } }
body { margin: 2rem auto; max-width: 74rem; padding: 0 1.25rem; background: var(--page); color: var(--ink);
  font: 16px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.05rem; margin: 0 0 .4rem; }
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
.tensors { margin-top: 2.5rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; }
tbody tr:nth-child(even) { background: var(--band); }
tfoot th, tfoot td { border-top: 2px solid #888; font-weight: 600; }
"""


_HEAD = ("tensor", "shape", "active at start", "active now", "sparsity at start", "sparsity now")


def tensor_table(run: RunRecord) -> str:
    """A row for each tensor in network order, and their sum; nothing if there is no sparse tensor."""
    if not run.tensors:
        return ""
    rows = [
        _row(tensor.name, " × ".join(map(str, tensor.shape)), tensor.active, now, tensor.size)
        for tensor, now in zip(run.tensors, run.active, strict=True)
    ]
    start, size = (sum(tensor.active for tensor in run.tensors), sum(tensor.size for tensor in run.tensors))
    head = "".join(f'<th scope="col">{name}</th>' for name in _HEAD)
    return (
        f'<section class="tensors">\n<h2>Sparse tensors</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody>\n"
        f"<tfoot>\n{_row('all', f'{size:,} positions', start, sum(run.active), size)}</tfoot>\n"
        "</table>\n</section>"
    )


def _row(name: str, shape: str, start: int, now: int, size: int) -> str:
    numbers = (f"{start:,}", f"{now:,}", f"{1 - start / size:.2%}", f"{1 - now / size:.2%}")
    cells = "".join(f"<td>{entry}</td>" for entry in (shape, *numbers))
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'


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
$outcome
$experiment
<details><summary>experiment.toml</summary>
<pre>$source</pre>
</details>
</header>
<main>
$figures
$tensors
</main>
</body>
</html>
""")


def page(run: RunRecord) -> str:
    """The whole page as HTML."""
    figures = [accuracy(run), loss(run), *strategy_metrics(run), pruned_and_grown(run), densities(run)]
    # so that no figure stands beside an empty half of the page
    fills_a_pair = sum(bool(one.svg) for one in figures) % 2 == 1
    rate = learning_rate(run, SIZE if fills_a_pair else WHOLE_WIDTH)
    pairs, wide = ([*figures, rate], []) if fills_a_pair else (figures, [rate])
    wide.append(active_parameters(run))
    drawn = [one for one in pairs if one.svg]
    undrawn = [one for one in (*pairs, *wide) if not one.svg]
    return _PAGE.substitute(
        title=escape(_title(run.experiment)),
        style=STYLE,
        outcome=_outcome(run),
        experiment=definitions("experiment", _settings(run.experiment)),
        source=escape(run.experiment_text),
        figures=f'<div class="pairs">\n{"".join(map(figure_element, drawn))}</div>\n'
        + "".join(figure_element(one) for one in wide if one.svg)
        + "".join(f'<p class="undrawn">{escape(f"{one.title}: {one.caption}")}</p>\n' for one in undrawn),
        tensors=tensor_table(run),
    )


def _title(experiment: Mapping[str, Any]) -> str:
    model, strategy, data = (name_of(experiment.get(key)) for key in ("model", "strategy", "data"))
    trained = " by ".join(filter(None, (model, strategy)))
    return " on ".join(filter(None, (trained, data))) or "A run of sparsecore"


def _settings(experiment: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    # whether presets are looked up says how the file is read, not what was run
    for key, value in experiment.items():
        if key != "presets":
            tables = value if isinstance(value, list) else [value]
            yield key, " + ".join(map(brief, tables))


def _outcome(run: RunRecord) -> str:
    if run.result is not None:
        return definitions("outcome", _measured(run.result)) + _effort(run.effort)
    so_far = f"epochs {len(run.epochs):,}, updates {len(run.updates):,}"
    return f'<p class="unfinished">This run has not finished. So far: {so_far}.</p>'


def _effort(effort: Effort) -> str:
    """What tells two machines, or two goes, apart; all else on the page is the same wherever a run was done."""
    rows = [("duration", f"{effort.seconds:,.1f} s")] if effort.seconds else []
    rows += [("computed on", effort.machine)] if effort.machine else []
    return "\n" + definitions("effort", rows) if rows else ""


def _measured(result: Result) -> Iterable[tuple[str, str]]:
    rows = (
        ("test accuracy", result.test_accuracy, "{:.2%}"),
        ("test loss (nats)", result.test_loss, "{:.4f}"),
        ("sparsity", result.sparsity, "{:.2%}"),
        ("sparse parameters", result.sparse_parameters, "{:,}"),
        ("dense parameters", result.dense_parameters, "{:,}"),
        ("updates", result.reallocations, "{:,}"),
        ("topology (SHA-256)", result.topology_sha256, "{:.12}"),
    )
    return ((term, form.format(value)) for term, value, form in rows if value is not None)
