"""The page of a run's report: its result, the figures, a table of the sparse tensors, and its settings."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from sparsecore.report.figures import (
    accuracy,
    active_parameters,
    densities,
    learning_rate,
    loss,
    pruned_and_grown,
    strategy_metrics,
)
from sparsecore.report.html import (
    charts_element,
    definition_list,
    describe_table,
    html_page,
    plugin_names,
    source_element,
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
    charts = [
        accuracy(run),
        loss(run),
        *strategy_metrics(run),
        pruned_and_grown(run),
        densities(run),
        active_parameters(run),
        learning_rate(run),
    ]
    return html_page(
        title=_title(run.experiment),
        findings=_outcome(run),
        contents=[charts_element(charts), _tensor_table(run)],
        folded={
            "Settings": definition_list("experiment", _settings(run.experiment)),
            "Duration and machine": definition_list("effort", _effort(run.effort)),
            "experiment.toml": source_element(run.experiment_text),
        },
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
        yield definition_list("outcome", _last_epoch(run))
        return
    yield definition_list("outcome", _measurements(run.result))


def _last_epoch(run: RunRecord) -> Iterable[tuple[str, str]]:
    for last in run.epochs[-1:]:
        yield f"test accuracy after epoch {last.epoch}", f"{last.test_accuracy:.2%}"
        yield "test loss (nats)", f"{last.test_loss:.4f}"
    if run.tensors:
        yield "sparsity", f"{1 - sum(run.active) / sum(tensor.size for tensor in run.tensors):.2%}"


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
