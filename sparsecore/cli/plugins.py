"""``sparsecore plugins``: what is installed, without importing it."""

import json
import os
import shlex
import sys
from pathlib import Path

import attrs
import click

from sparsecore.cli.output import print_message
from sparsecore.cli.tables import console, print_table
from sparsecore.plugins.listing import listings
from sparsecore.plugins.new_project import new_strategy as write_project


@click.command("new-strategy")
@click.argument("name")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def new_strategy(*, name: str, folder: Path) -> None:
    """Write a small project in DIR that installs a strategy named NAME: one file, its test, an entry point.

    NAME is of lower-case words joined by '-'. DIR is made; one that is not empty is refused.
    """
    own, *others = write_project(name, folder)
    lines = (
        f"{own} is the strategy; beside it are {', '.join(other.name for other in others)}. Next:",
        f"  cd {shlex.quote(str(folder))}",
        "  python -m pip install -e '.[test]'",
        "  python -m pytest",
        f"  sparsecore check {name}",
    )
    print_message("\n".join(lines), sys.stdout)


_WIDE = 140
"""Columns of a terminal that has room for where plugins come from."""
_WITHOUT_TERMINAL = 100
"""Columns where neither a terminal nor COLUMNS says how many there are."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array in place of the table.")
def plugins(*, as_json: bool) -> None:
    """List the installed plugins: kind, name, source, and a line about each.

    A broken plugin is listed with its error. Where each comes from is told where there is room for it, and by --json.
    """
    found = listings()
    if as_json:
        click.echo(json.dumps([attrs.asdict(listing) for listing in found], indent=1))
        return
    out = console(None)
    width = out.width if out.is_terminal or os.environ.get("COLUMNS", "").isdigit() else _WITHOUT_TERMINAL
    is_wide = width >= _WIDE  # the sources are long, and in the way where people look
    rows = [
        (
            listing.kind,
            listing.name,
            *((listing.source,) if is_wide else ()),
            f"BROKEN: {listing.error} ({listing.source})" if listing.error else listing.summary,
        )
        for listing in found
    ]
    print_table(("kind", "name", *(("source",) if is_wide else ()), "what it is"), rows, width=width)
