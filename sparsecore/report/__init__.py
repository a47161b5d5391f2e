"""The report of a run: one self-contained HTML page with figures, written from the files of the run's folder."""

from pathlib import Path

from sparsecore.errors import without_controls
from sparsecore.report.reading import read_run
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder

__all__ = ["read_run", "write_report"]


def write_report(run: Path) -> Path:
    """Write the report of a run, finished or not, into its folder.

    The same files of a run give the same bytes.

    Args:
        run: folder of the run.

    Returns:
        Path of the page, ``report.html`` in the folder.

    Raises:
        InputError: the folder has no run, or one of its files is damaged.
    """
    # imported here so that training need not wait for it
    from sparsecore.report.page import page

    html = page(read_run(run))
    report = RunFolder(run).report
    write_whole(report, without_controls(html).encode())
    return report
