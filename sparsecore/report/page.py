"""The page of a run's report: its settings and result, the figures, and a table of the sparse tensors."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from sparsecore.report.figures import (
    SIZE,
    WHOLE_WIDTH,
    accuracy,
    active_parameters,
    densities,
    learning_rate,
    loss,
    pruned_and_grown,
    strategy_metrics,
)
from sparsecore.report.html import (
    definition_list,
    describe_table,
    figure_element,
    html_page,
    plugin_names,
    table_element,
)
from sparsecore.report.reading import RunRecord
from sparsecore.run.logs import Effort, Result

_HEAD = ("tensor", "shape", "active at start", "active now", "sparsity at start", "sparsity now")


def page(run: RunRecord) -> str:
    """Return the page of a run.

    Args:
        run: what its folder has, finished or not; figures that cannot be drawn yet are listed by their captions.

    Returns:
        HTML without references to other files.
    """
    figures = [accuracy(run), loss(run), *strategy_metrics(run), pruned_and_grown(run), densities(run)]
    # so that no figure has an empty half of the page next to it
    fills_a_pair = sum(bool(figure.svg) for figure in figures) % 2 == 1
    rate = learning_rate(run, SIZE if fills_a_pair else WHOLE_WIDTH)
    pairs, wide = ([*figures, rate], []) if fills_a_pair else (figures, [rate])
    wide.append(active_parameters(run))
    missing = [figure for figure in (*pairs, *wide) if not figure.svg]
    paired = "".join(figure_element(figure) for figure in pairs if figure.svg)
    return html_page(
        title=_title(run.experiment),
        summary=[*_outcome(run), definition_list("experiment", _settings(run.experiment))],
        source_name="experiment.toml",
        source=run.experiment_text,
        contents=[
            f'<div class="pairs">\n{paired}</div>',
            *(figure_element(figure) for figure in wide if figure.svg),
            *(f'<p class="undrawn">{escape(f"{figure.title}: {figure.caption}")}</p>' for figure in missing),
            _tensor_table(run),
        ],
    )


def _title(experiment: Mapping[str, Any]) -> str:
    model, strategy, data = (plugin_names(experiment.get(key)) for key in ("model", "strategy", "data"))
    trained = " by ".join(filter(None, (model, strategy)))
    return " on ".join(filter(None, (trained, data))) or "A run of sparsecore"


def _settings(experiment: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in experiment.items():
        if key != "presets":  # how the file is read, not a setting of the run
            tables = value if isinstance(value, list) else [value]
            yield key, " + ".join(map(describe_table, tables))


def _outcome(run: RunRecord) -> Iterable[str]:
    if run.result is None:
        progress = f"epochs {len(run.epochs):,}, updates {len(run.updates):,}"
        yield f'<p class="unfinished">This run has not finished. So far: {progress}.</p>'
        return
    yield definition_list("outcome", _measurements(run.result))
    effort = list(_effort(run.effort))
    if effort:
        yield definition_list("effort", effort)


def _effort(effort: Effort) -> Iterable[tuple[str, str]]:
    """Yield duration and machine; everything else on the page is the same on every machine."""
    if effort.seconds:
        yield "duration", f"{effort.seconds:,.1f} s"
    if effort.machine:
        yield "computed on", effort.machine


def _measurements(result: Result) -> Iterable[tuple[str, str]]:
    rows = (
        ("test accuracy", result.test_accuracy, "{:.2%}"),
        ("test loss (nats)", result.test_loss, "{:.4f}"),
        ("sparsity", result.sparsity, "{:.2%}"),
        ("sparse parameters", result.sparse_parameters, "{:,}"),
        ("dense parameters", result.dense_parameters, "{:,}"),
        ("updates", result.reallocations, "{:,}"),
        ("topology (SHA-256)", result.topology_sha256, "{:.12}"),
    )
    yield from ((term, form.format(value)) for term, value, form in rows)
    if result.flops is not None:
        yield "FLOPs of an image", _of_dense(result.flops.inference, result.flops.inference_dense)
        if result.flops.training is not None:
            yield "FLOPs of training", _of_dense(result.flops.training, result.flops.training_dense)


def _of_dense(operations: int, dense: int) -> str:
    return f"{operations:.3g}, {operations / dense:.3f} of dense"


def _tensor_table(run: RunRecord) -> str:
    """Return a table with a row for each sparse tensor in network order and their sum; empty if there are none."""
    if not run.tensors:
        return ""
    rows = [
        _tensor_row(tensor.name, " × ".join(map(str, tensor.shape)), tensor.active, now, tensor.size)
        for tensor, now in zip(run.tensors, run.active, strict=True)
    ]
    start, size = (sum(tensor.active for tensor in run.tensors), sum(tensor.size for tensor in run.tensors))
    total = _tensor_row("all", f"{size:,} positions", start, sum(run.active), size)
    return f'<section class="tensors">\n<h2>Sparse tensors</h2>\n{table_element(_HEAD, rows, total)}\n</section>'


def _tensor_row(name: str, shape: str, start: int, now: int, size: int) -> tuple[str, ...]:
    return escape(name), shape, f"{start:,}", f"{now:,}", f"{1 - start / size:.2%}", f"{1 - now / size:.2%}"
