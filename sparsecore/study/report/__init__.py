"""A study's report: one page with figures and tables, the figures as files, and all numbers as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

from sparsecore.errors import InputError, without_controls
from sparsecore.extras import require
from sparsecore.run.files import write_whole
from sparsecore.study.folder import StudyFolder
from sparsecore.study.report.accuracy_figures import accuracy_figure
from sparsecore.study.report.contents import StudyResults, read_study_results, results_json
from sparsecore.study.report.page import page
from sparsecore.study.report.panels import StudyFigure
from sparsecore.study.report.topology_figures import (
    density_heat_maps,
    explored_figure,
    final_sparsity_figure,
    overlap_figure,
)


def write_study_report(folder: StudyFolder, title: str = "") -> Path:
    """Write the report of a study, finished or not, into its folder.

    There will be ``report.html``, a self-contained page; ``figures/`` with every figure as SVG and PNG; and
    ``results.json`` with all numbers.

    Args:
        folder: the study's.
        title: what the images are to be called from now on; what they were found to be, where it is empty.

    Returns:
        Where the page is.

    Raises:
        InputError: the folder holds no study, a file of it is damaged, or the report cannot be written.
        MissingPackageError: a package that draws or computes tests is not installed.
    """
    check_reportable()
    try:
        results = read_study_results(folder, title)
        _write(folder, results)
    except OSError as error:
        raise InputError(f"the report of the study {folder.path} cannot be written: {error.strerror}") from error
    return folder.report


def check_reportable() -> None:
    """Check that what a study's report needs is installed.

    Raises:
        MissingPackageError: matplotlib or scipy is not.
    """
    require("matplotlib", "scipy", extra="report", purpose="a study's report")


def _write(folder: StudyFolder, results: StudyResults) -> None:
    first = accuracy_figure(results)
    others = [
        *density_heat_maps(results),
        overlap_figure(results),
        explored_figure(results),
        final_sparsity_figure(results),
    ]
    folder.figures.mkdir(exist_ok=True)
    for name, content in _files([first, *others]):
        write_whole(folder.figures / name, content)
    write_whole(folder.results, json.dumps(results_json(results), indent=1).encode() + b"\n")
    write_whole(folder.report, without_controls(page(results, first, others)).encode())


def _files(pictures: list[StudyFigure]) -> Iterator[tuple[str, bytes]]:
    for picture in pictures:
        if picture.drawing is not None:
            yield f"{picture.name}.svg", picture.drawing.svg.encode()
            yield f"{picture.name}.png", picture.drawing.png
