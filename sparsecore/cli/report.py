"""``sparsecore report RUN``: make a run's page again."""

from pathlib import Path

import click

from sparsecore.report import write_report


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write report.html in the folder RUN from what the run has recorded so far."""
    click.echo(write_report(run))
