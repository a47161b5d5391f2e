"""The report of a comparison of strategies: a page, its tables as Markdown, and all numbers as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from sparsecore.errors import InputError, without_controls
from sparsecore.report.charts import Chart
from sparsecore.report.colours import Style
from sparsecore.report.html import (
    as_text,
    charts_element,
    definition_list,
    findings_list,
    html_page,
    named,
    source_element,
    table_element,
)
from sparsecore.run.files import write_whole
from sparsecore.study.report import check_reportable, write_figures
from sparsecore.study.report.results import counted
from sparsecore.study.strategy_comparison.figures import accuracy_figure, arm_styles, flops_figure
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
    in_text,
    markdown,
    protocol,
    short_protocol,
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
        for network in results.networks:
            write_figures(folder, drawn[network.network.name], short_protocol(network, results))
        write_whole(folder.results, json.dumps(results_json(results), indent=1).encode() + b"\n")
        write_whole(folder.tables, markdown(results, drawn).encode())
        write_whole(folder.report, without_controls(page).encode())
    except OSError as error:
        raise InputError(f"the report of the comparison {folder.path} cannot be written: {error.strerror}") from error
    return folder.report


def _figures(network: NetworkResult, results: ComparisonResults) -> tuple[Chart, ...]:
    return accuracy_figure(network, results), flops_figure(network, results)


def comparison_page(results: ComparisonResults, definition: str, figures: Mapping[str, Sequence[Chart]]) -> str:
    """Return the page of a comparison as HTML.

    Args:
        results: results of the comparison.
        definition: the text of its definition.
        figures: figures of each network, by its name.
    """
    return html_page(
        title="Which strategy is the best?",
        findings=[findings_list(sentence for network in results.networks for sentence in _findings(network))],
        contents=[
            part for network in results.networks for part in _network(network, results, figures[network.network.name])
        ],
        folded={
            **{f"{network.title}: settings and machines": _settings(network) for network in results.networks},
            "strategies.toml": source_element(definition),
        },
    )


def _findings(network: NetworkResult) -> Iterator[str]:
    """Yield the best strategies at each sparsity, in HTML: all that do not differ from the most accurate one."""
    for one in network.sparsities:
        best = one.arms[0] if one.arms and one.arms[0].finished else None
        if best is None:
            continue
        equal = [arm.arm.name for arm in one.arms[1:] if set(arm.letters) & set(best.letters)]
        also = f"; {', '.join(map(escape, equal))} do not differ from it" if equal else ""
        yield (
            f"{escape(network.title)}, sparsity {one.sparsity:g}: <b>{escape(best.arm.name)}</b> is the most accurate, "
            f"{in_text(best.accuracy, 2, 100)} %{also}."
        )


def _settings(network: NetworkResult) -> str:
    rows = [(name, as_text(value)) for name, value in network.network.options.items()]
    machines = [("computed on", machine) for machine in network.machines]
    return definition_list("experiment", rows) + definition_list("effort", machines)


def _network(network: NetworkResult, results: ComparisonResults, figures: Sequence[Chart]) -> Iterator[str]:
    styles = arm_styles(network, results)
    yield f'<h2 class="part">{escape(network.title)}</h2>'
    if network.unfinished:
        yield f'<p class="unfinished">{counted(len(network.unfinished), "run")} not finished.</p>'
    yield _paragraph(protocol(network, results))
    yield charts_element(figures)
    for one in network.sparsities:
        yield f"<h2>Sparsity {one.sparsity:g}</h2>"
        yield _paragraph(tests_in_words(one))
        yield _table(sparsity_table(one, results.comparison.trials), styles)
        yield f"<details><summary>All pairs</summary>\n{_pairs(one)}\n</details>"
    yield _paragraph(LEGEND)
    yield f"<h2>Tuning</h2>\n{_table(tuning_table(network), styles, text_columns=1)}"


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


def _table(table: Table, styles: Mapping[str, Style], text_columns: int = 0) -> str:
    rows = ((named(name, styles[name]), *cells) for name, *cells in table.rows)
    return table_element(table.head, rows, text_columns=text_columns)


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
