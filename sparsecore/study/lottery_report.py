"""The report of a lottery: accuracies of tickets and controls, learning curves, and densities of each round."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from sparsecore.errors import InputError, without_controls
from sparsecore.experiment.assembly import Tables
from sparsecore.report.charts import Cell, Chart, Panel, Table, readings, series_of
from sparsecore.report.colours import BLUE, INK, VERMILION, Style, ramp_style
from sparsecore.report.html import (
    charts_element,
    definition_list,
    describe_table,
    findings_list,
    html_page,
    plugin_names,
    source_element,
    table_element,
)
from sparsecore.report.marks import Interval, Level, Line, Mark
from sparsecore.report.reading import RunRecord, read_run
from sparsecore.report.scales import Axis
from sparsecore.run.files import write_whole
from sparsecore.run.folder import LOTTERY_FILE, RunFolder
from sparsecore.run.logs import Result, read_text
from sparsecore.study.lottery import read_lottery
from sparsecore.study.report.results import counted

_TICKETS, _CONTROLS, _DENSE = Style(BLUE, "o"), Style(VERMILION, "s", dashed=True), Style(INK, dashed=True)
_MOST_CURVES = 40


@attrs.frozen
class _Finished:
    """A finished run of a lottery.

    Attributes:
        round: number of prunings before it.
        is_control: whether it trains a ticket from fresh values.
        run: the contents of its folder.
        result: its result.
    """

    round: int
    is_control: bool
    run: RunRecord
    result: Result

    @property
    def left(self) -> float:
        """The share of weights that are left, in percent."""
        return 100 * (1 - self.result.sparsity)


def write_lottery_report(folder: Path) -> Path:
    """Write the report of a lottery, finished or not, into its folder.

    Args:
        folder: folder of the lottery.

    Returns:
        Path of the page, ``report.html`` in the folder.

    Raises:
        InputError: the folder has no lottery, or one of its files is damaged.
    """
    files, lottery = RunFolder(folder), read_lottery(folder)
    finished, missing = [], []
    for planned in lottery.runs({}, files.path):
        own = RunFolder(files.path / planned.name)
        run = read_run(own.path) if own.result.exists() else None
        if run is None or run.result is None:
            missing.append(planned.name)
        else:
            finished.append(_Finished(planned.round, planned.is_control, run, run.result))
    definition = read_text(files.path / LOTTERY_FILE)
    html = lottery_page(finished, missing, files.read_tables(), read_text(files.experiment), definition)
    try:
        write_whole(files.report, without_controls(html).encode())
    except OSError as error:
        raise InputError(f"the report of the lottery {folder} cannot be written: {error.strerror}") from error
    return files.report


def lottery_page(
    finished: Sequence[_Finished], missing: Sequence[str], settings: Tables, experiment: str, definition: str
) -> str:
    """Return the page of a lottery as HTML.

    Args:
        finished: its finished runs, in their order.
        missing: names of the others.
        settings: tables of experiment.toml, those of round 0.
        experiment: its text.
        definition: text of lottery.toml.
    """
    names = {"of": plugin_names(settings.get("model")), "on": plugin_names(settings.get("data"))}
    rows = [(key, describe_table(value)) for key, value in settings.items()]
    return html_page(
        title="Lottery tickets" + "".join(f" {word} {name}" for word, name in names.items() if name),
        findings=[_missing(missing), findings_list(_findings(finished))],
        contents=[
            charts_element([_accuracies(finished), _curves(finished), _densities(finished)]),
            f"<h2>Rounds</h2>\n{_rounds(finished)}" if finished else "",
        ],
        folded={
            "Settings of round 0": definition_list("experiment", rows),
            "lottery.toml": source_element(definition),
            "experiment.toml": source_element(experiment),
        },
    )


def _missing(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f'<p class="unfinished">{counted(len(names), "run")} not finished: {", ".join(names)}.</p>'


def _findings(finished: Sequence[_Finished]) -> Iterator[str]:
    """Yield what was found as sentences, in HTML."""
    dense, pruned = _dense(finished), _pruned(finished)
    if dense is not None:
        accuracy = dense.result.test_accuracy
        yield f"The dense network (round 0) has a test accuracy of {accuracy:.2%}."
        yield from _winning(accuracy, pruned)
    controls = {one.round: one.result.test_accuracy for one in finished if one.is_control}
    compared = [one for one in pruned if one.round in controls]
    if compared:
        better = sum(one.result.test_accuracy > controls[one.round] for one in compared)
        yield f"{better} of {len(compared)} tickets are more accurate than the same structure from fresh values."
    if pruned:
        yield "Each is a single run, so that small differences may be due to chance."


def _dense(finished: Sequence[_Finished]) -> _Finished | None:
    """Return round 0; None if it has not finished, or its folder is gone."""
    return next((one for one in finished if not one.round), None)


def _pruned(finished: Sequence[_Finished]) -> list[_Finished]:
    return [one for one in finished if one.round and not one.is_control]


def _winning(accuracy: float, pruned: Sequence[_Finished]) -> Iterator[str]:
    """Yield which tickets are as accurate as the dense network, in HTML."""
    winning = [one for one in pruned if one.result.test_accuracy >= accuracy]
    if winning:
        smallest = min(winning, key=lambda one: one.left)
        yield (
            f"The smallest ticket that is at least as accurate is that of <b>round {smallest.round}</b>: "
            f"{smallest.left:.1f}% of the weights, {smallest.result.test_accuracy:.2%}."
        )
    elif pruned:
        yield "No ticket is as accurate as the dense network."


def _accuracies(finished: Sequence[_Finished]) -> Chart:
    title = "Test accuracy of the tickets"
    if not finished:
        return Chart("accuracy", title, "No run has finished yet.")
    dense = _dense(finished)
    accuracy = None if dense is None else 100 * dense.result.test_accuracy
    marks: list[Mark] = [] if accuracy is None else [Level("dense", _DENSE, accuracy)]
    series = []
    for name, style, runs in (
        ("tickets", _TICKETS, _pruned(finished)),
        ("fresh values", _CONTROLS, [one for one in finished if one.is_control]),
    ):
        points = sorted((one.left, 100 * one.result.test_accuracy) for one in runs)
        if points:
            marks.append(Line(name, style, points))
            marks += [Interval(name, style, point, point, point) for point in points]
            series.append(series_of(name, style, points))
    heads = {one.left: f"round {one.round}: {one.left:.1f}% of the weights" for one in finished if one.round}
    stops = sorted(heads) or [100.0]
    if accuracy is not None:
        series.append(series_of("dense", _DENSE, [(stops[0], accuracy)], holds=True))
    known = readings(series, heads or {100.0: "round 0"}, "%")
    axis = Axis("weights left (% of all)", is_logarithmic=True)
    rows: list[tuple[Cell, ...]] = [
        (one.round, int(one.is_control), one.result.sparse_parameters, one.result.sparsity, one.result.test_accuracy)
        for one in finished
    ]
    table = Table(("round", "is_control", "weights", "sparsity", "test_accuracy"), rows)
    legend = tuple((one.name, one.style) for one in series if one.style is not None)
    caption = "After the last epoch of each round; the dashed line is the dense network."
    panel = Panel("", axis, Axis("test accuracy (% of images)"), marks, known)
    return Chart("accuracy", title, caption, (panel,), legend, table)


def _curves(finished: Sequence[_Finished]) -> Chart:
    title = "Test accuracy during each round"
    tickets = [one for one in finished if not one.is_control and one.run.epochs][:_MOST_CURVES]
    if not tickets:
        return Chart("curves", title, "No run has finished yet.")
    marks, series, legend = [], [], []
    for number, one in enumerate(tickets):
        name, style = f"round {one.round}", ramp_style(number, len(tickets))
        points = [(float(epoch.epoch), 100 * epoch.test_accuracy) for epoch in one.run.epochs]
        marks.append(Line(name, style, points, points if len(points) == 1 else ()))
        series.append(series_of(name, style, points))
        legend.append((name, style))
    rows = [(one.round, epoch.epoch, epoch.test_accuracy) for one in tickets for epoch in one.run.epochs]
    end = 1.02 * max(one.run.epochs[-1].epoch for one in tickets)
    x_axis, y_axis = Axis("epoch", 0.0, end, is_whole=True), Axis("test accuracy (% of images)")
    panel = Panel("", x_axis, y_axis, marks, readings(series, "epoch", "%"))
    table = Table(("round", "epoch", "test_accuracy"), rows)
    return Chart("curves", title, "Tickets only, from violet to yellow.", (panel,), tuple(legend), table)


def _densities(finished: Sequence[_Finished]) -> Chart:
    title = "Density of each tensor"
    tickets = [one for one in finished if not one.is_control]
    if not tickets or not tickets[0].run.tensors:
        return Chart("densities", title, "No run with sparse tensors has finished yet.")
    names = [tensor.name for tensor in tickets[0].run.tensors]
    rounds = [float(one.round) for one in tickets]
    shares = [
        [count / tensor.size for tensor, count in zip(one.run.tensors, one.run.active, strict=True)] for one in tickets
    ]
    marks, series, legend = [], [], []
    for number, name in enumerate(names):
        style = ramp_style(number, len(names))
        points = [(place, 100 * of_round[number]) for place, of_round in zip(rounds, shares, strict=True)]
        marks.append(Line(name, style, points, points if len(points) == 1 else ()))
        series.append(series_of(name, style, points))
        legend.append((name, style))
    x_axis, y_axis = Axis("round", is_whole=True), Axis("active (% of positions)", is_logarithmic=True)
    panel = Panel("", x_axis, y_axis, marks, readings(series, "round", "%"))
    table = Table(("round", *names), [(one.round, *row) for one, row in zip(tickets, shares, strict=True)])
    caption = "Violet lines are the first tensors, yellow ones the last."
    return Chart("densities", title, caption, (panel,), tuple(legend), table, is_folded=len(names) > 8)


def _rounds(finished: Sequence[_Finished]) -> str:
    """Return a table with a row for each round."""
    controls = {one.round: one.result for one in finished if one.is_control}
    head = ("round", "weights", "sparsity", "test accuracy", "test loss (nats)")
    rows = []
    for one in (one for one in finished if not one.is_control):
        result, control = one.result, controls.get(one.round)
        numbers = (f"{result.sparse_parameters:,}", f"{result.sparsity:.4f}", f"{result.test_accuracy:.2%}")
        fresh = ("" if control is None else f"{control.test_accuracy:.2%}",) if controls else ()
        rows.append((str(one.round), *numbers, f"{result.test_loss:.4f}", *fresh))
    return table_element((*head, *(["accuracy with fresh values"] if controls else [])), rows)
