"""The report's page: what was run, what came of it, the figures, and a table of the tensors."""

from collections.abc import Iterable, Mapping
from html import escape
from string import Template
from typing import Any

from sparsecore.report.areas import active_parameters, densities
from sparsecore.report.elements import brief, definitions, figure_element, name_of
from sparsecore.report.figures import SIZE, WHOLE_WIDTH, accuracy, learning_rate, loss, pruned_and_grown, threshold
from sparsecore.report.reading import Effort, Result, Run
from sparsecore.report.style import STYLE
from sparsecore.report.tensors import tensor_table

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


def page(run: Run) -> str:
    """The whole page as HTML."""
    figures = [accuracy(run), loss(run), threshold(run), pruned_and_grown(run), densities(run)]
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


def _outcome(run: Run) -> str:
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
