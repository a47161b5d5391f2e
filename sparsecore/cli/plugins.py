"""``sparsecore plugins`` lists what is installed; ``sparsecore new-strategy`` writes the project of a new strategy."""

import json
import os
import shlex
import sys
from pathlib import Path

import attrs
import click

from sparsecore.cli.output import console, print_message, print_table
from sparsecore.plugins.listing import Listing, listings
from sparsecore.plugins.new_project import new_strategy as write_project

_WIDE = 140
"""Columns of a terminal that has room for the sources of plugins."""
_DEFAULT_WIDTH = 100
"""Columns if neither a terminal nor COLUMNS gives their number."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of the table.")
def plugins(*, as_json: bool) -> None:
    """List the installed plugins.

    Each has a kind, a name, a source (in wide terminals and with --json) and a summary, which says which are
    contributed; a broken plugin has its error. Nothing is imported.
    """
    found = listings()
    if as_json:
        click.echo(json.dumps([attrs.asdict(listing) for listing in found], indent=1))
        return
    out = console(None)
    width = out.width if out.is_terminal or os.environ.get("COLUMNS", "").isdigit() else _DEFAULT_WIDTH
    is_wide = width >= _WIDE
    rows = [
        (
            listing.kind,
            listing.name,
            *((listing.source,) if is_wide else ()),
            _described(listing),
        )
        for listing in found
    ]
    print_table(("kind", "name", *(("source",) if is_wide else ()), "summary"), rows, width=width)


def _described(listing: Listing) -> str:
    if listing.error:
        return f"BROKEN: {listing.error} ({listing.source})"
    summary = listing.summary.replace("``", "`")  # reStructuredText's mark of code
    return f"Contributed. {summary}" if listing.contributed else summary


@click.command("new-strategy")
@click.argument("name")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def new_strategy(*, name: str, folder: Path) -> None:
    """Create a project for a new strategy.

    NAME consists of lower-case words joined by '-'. DIR is created and must not have any files yet. The project has the
    strategy in one file, its test, and the entry point that installs it.
    """
    own, *others = write_project(name, folder)
    lines = (
        f"Strategy: {own}; also written: {', '.join(other.name for other in others)}. Next:",
        f"  cd {shlex.quote(str(folder))}",
        "  python -m pip install -e '.[test]'",
        "  python -m pytest",
        f"  sparsecore check {name}",
    )
    print_message("\n".join(lines), sys.stdout)
