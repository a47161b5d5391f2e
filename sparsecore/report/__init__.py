"""A run's report: one page with plots that opens anywhere, made from the files of a run folder and nothing else."""

from pathlib import Path

REPORT_FILE = "report.html"


def write_report(run: Path) -> Path:
    """Write the report of a run, finished or not, into its folder.

    The page is self-contained and a function of the run's files: the same files give the same bytes.

    Args:
        run: the run's folder.

    Returns:
        Where the page is: ``report.html`` in the folder.

    Raises:
        InputError: the folder holds no run, or one of its files is damaged.
    """
    # plotting takes most of a second to import; who only trains should not wait for it
    from sparsecore.report.page import page
    from sparsecore.report.reading import read_run

    html = page(read_run(run))
    report = run / REPORT_FILE
    aside = report.with_suffix(".html.part")
    aside.write_text(html, encoding="utf-8", newline="\n")
    return aside.replace(report)
