"""The report of a study: a page with figures and tables, the figures as files, and all numbers as JSON."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparsecore.errors import InputError, without_controls
from sparsecore.extras import require
from sparsecore.report.chart_files import draw_chart
from sparsecore.report.charts import Chart
from sparsecore.run.files import write_whole
from sparsecore.study.folder import StudyFolder
from sparsecore.study.report.density_figures import density_heat_maps, density_lines
from sparsecore.study.report.page import page
from sparsecore.study.report.results import StudyResults, read_study_results, results_json
from sparsecore.study.report.topology_figures import (
    FILES,
    PAGE,
    Resolution,
    explored_figure,
    final_sparsity_figure,
    overlap_figure,
)
from sparsecore.study.report.training_figures import accuracy_figure, learning_rate_figure
from sparsecore.study.report_folder import ReportFolder


def write_study_report(folder: StudyFolder, title: str = "") -> Path:
    """Write the report of a study, finished or not, into its folder.

    It consists of ``report.html``, a self-contained page; ``figures/`` with each figure as SVG and PNG; and
    ``results.json`` with all numbers.

    Args:
        folder: folder of the study.
        title: name of the images from now on; if empty, the recorded name or the one that is found.

    Returns:
        Path of the page.

    Raises:
        InputError: the folder has no study, one of its files is damaged, or the report cannot be written.
        MissingPackageError: matplotlib or scipy is not installed.
    """
    check_reportable()
    try:
        _write(folder, read_study_results(folder, title))
    except OSError as error:
        raise InputError(f"the report of the study {folder.path} cannot be written: {error.strerror}") from error
    return folder.report


def check_reportable() -> None:
    """Check that the packages that a study's report needs are installed.

    Raises:
        MissingPackageError: matplotlib or scipy is not installed.
    """
    require("matplotlib", "scipy", extra="report", purpose="a study's report")


def _write(folder: StudyFolder, results: StudyResults) -> None:
    accuracy, learning_rate = accuracy_figure(results), learning_rate_figure(results)
    folder.figures.mkdir(exist_ok=True)
    write_figures(folder, (accuracy, *_topology_figures(results, FILES), learning_rate), results.protocol)
    write_whole(folder.results, json.dumps(results_json(results), indent=1).encode() + b"\n")
    html = page(results, accuracy, list(_topology_figures(results, PAGE)), learning_rate)
    write_whole(folder.report, without_controls(html).encode())


def _topology_figures(results: StudyResults, resolution: Resolution) -> Iterator[Chart]:
    yield from density_heat_maps(results, resolution)
    yield from density_lines(results, resolution)
    yield overlap_figure(results, resolution)
    yield explored_figure(results, resolution)
    yield final_sparsity_figure(results)


def write_figures(folder: ReportFolder, charts: Iterable[Chart], protocol: str) -> None:
    """Write the files of figures into the folder of figures, which exists.

    Args:
        folder: folder of the report.
        charts: the figures; those that show nothing have no files.
        protocol: line below their titles.
    """
    for chart in charts:
        if chart.panels:
            drawing = draw_chart(chart, protocol)
            write_whole(folder.figures / f"{chart.name}.svg", drawing.svg.encode())
            write_whole(folder.figures / f"{chart.name}.png", drawing.png)
