"""``sparsecore report DIR``: make the page of a run or a study again."""

from pathlib import Path

import click

from sparsecore.cli.output import print_message, result_stream
from sparsecore.report import write_report
from sparsecore.study.folder import StudyFolder
from sparsecore.study.report import write_study_report


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write report.html in DIR, the folder of a run or a study, from what it has recorded so far."""
    place = StudyFolder(folder)
    with result_stream() as stream:
        print_message(str(write_study_report(place) if place.study.exists() else write_report(folder)), stream)
