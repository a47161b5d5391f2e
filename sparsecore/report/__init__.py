"""A run's report: one page with plots that opens anywhere, made from the files of a run folder and nothing else."""

from pathlib import Path

from sparsecore.errors import without_controls
from sparsecore.extras import require
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder


def write_report(run: Path) -> Path:
    """Write the report of a run, finished or not, into its folder.

    The page is self-contained and a function of the run's files: the same files give the same bytes.

    Args:
        run: the run's folder.

    Returns:
        Where the page is: ``report.html`` in the folder.

    Raises:
        InputError: the folder holds no run, or one of its files is damaged.
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="a report")
    # plotting takes most of a second to import; who only trains should not wait for it
    from sparsecore.report.page import page
    from sparsecore.report.reading import read_run

    html = page(read_run(run))
    report = RunFolder(run).report
    write_whole(report, without_controls(html).encode())
    return report
