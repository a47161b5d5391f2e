"""The report of a comparison of strategies: a page, its tables as Markdown, and all numbers as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from sparsecore.errors import InputError, without_controls
from sparsecore.report.drawing import ReportFigure
from sparsecore.report.html import as_text, definition_list, figure_element, html_page, table_element
from sparsecore.run.files import write_whole
from sparsecore.study.report import check_reportable
from sparsecore.study.report.panels import StudyFigure
from sparsecore.study.report.results import counted
from sparsecore.study.strategy_comparison.figures import accuracy_figure, flops_figure
from sparsecore.study.strategy_comparison.folder import ComparisonFolder
from sparsecore.study.strategy_comparison.results import (
    ComparisonResults,
    NetworkResult,
    SparsityResult,
    read_comparison_results,
    results_json,
)
from sparsecore.study.strategy_comparison.tables import (
    LEGEND,
    Table,
    markdown,
    protocol,
    sparsity_table,
    tests_in_words,
    tuning_table,
)


def write_comparison_report(folder: ComparisonFolder) -> Path:
    """Write the report of a comparison, finished or not, into its folder.

    It consists of ``report.html``, a self-contained page; ``figures/`` with its figures as SVG and PNG; ``tables.md``
    with its tables; and ``results.json`` with all numbers.

    Args:
        folder: folder of the comparison.

    Returns:
        Path of the page.

    Raises:
        InputError: the folder has no comparison, one of its files is damaged, or the report cannot be written.
        MissingPackageError: matplotlib or scipy is not installed.
    """
    check_reportable()
    results = read_comparison_results(folder)
    drawn = {network.network.name: _figures(network, results) for network in results.networks}
    page = comparison_page(results, folder.definition.read_text("utf-8"), drawn)
    try:
        folder.figures.mkdir(exist_ok=True)
        for figure in (figure for figures in drawn.values() for figure in figures):
            if figure.drawing is not None:
                write_whole(folder.figures / f"{figure.name}.svg", figure.drawing.svg.encode())
                write_whole(folder.figures / f"{figure.name}.png", figure.drawing.png)
        write_whole(folder.results, json.dumps(results_json(results), indent=1).encode() + b"\n")
        write_whole(folder.tables, markdown(results, drawn).encode())
        write_whole(folder.report, without_controls(page).encode())
    except OSError as error:
        raise InputError(f"the report of the comparison {folder.path} cannot be written: {error.strerror}") from error
    return folder.report


def _figures(network: NetworkResult, results: ComparisonResults) -> tuple[StudyFigure, ...]:
    return accuracy_figure(network, results), flops_figure(network, results)


def comparison_page(results: ComparisonResults, definition: str, figures: Mapping[str, Sequence[StudyFigure]]) -> str:
    """Return the page of a comparison as HTML.

    Args:
        results: results of the comparison.
        definition: the text of its definition.
        figures: figures of each network, by its name.
    """
    return html_page(
        title="Which strategy is the best?",
        summary=[],
        source_name="strategies.toml",
        source=definition,
        contents=[
            *(
                part
                for network in results.networks
                for part in _network(network, results, figures[network.network.name])
            )
        ],
    )


def _network(network: NetworkResult, results: ComparisonResults, figures: Sequence[StudyFigure]) -> Iterator[str]:
    yield f'<h2 class="part">{escape(network.title)}</h2>'
    if network.unfinished:
        yield f'<p class="unfinished">{counted(len(network.unfinished), "run")} not finished.</p>'
    yield _paragraph(protocol(network, results))
    yield from (figure_element(ReportFigure(one.title, one.caption, one.on_page)) for one in figures)
    for one in network.sparsities:
        yield f"<h2>Sparsity {one.sparsity:g}</h2>"
        yield _paragraph(tests_in_words(one))
        yield _table(sparsity_table(one, results.comparison.trials))
        yield f"<details><summary>All pairs</summary>\n{_pairs(one)}\n</details>"
    yield _paragraph(LEGEND)
    yield f"<h2>Tuning</h2>\n{_table(tuning_table(network), text_columns=1)}"
    rows = [(name, as_text(value)) for name, value in network.network.options.items()]
    yield definition_list("experiment", rows)
    yield definition_list("effort", [("computed on", machine) for machine in network.machines])


def _pairs(result: SparsityResult) -> str:
    head = ("more accurate", "less accurate", "difference (points)", "Welch's t", "p", "p after Holm")
    rows = (
        (
            escape(pair.better),
            pair.worse,
            f"{100 * pair.difference.of_means:.2f}",
            f"{pair.difference.t:.2f}",
            f"{pair.difference.p:.2g}",
            f"{pair.corrected_p:.2g}",
        )
        for pair in result.pairs
    )
    return table_element(head, rows)


def _table(table: Table, text_columns: int = 0) -> str:
    rows = ((escape(name), *cells) for name, *cells in table.rows)
    return table_element(table.head, rows, text_columns=text_columns)


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
