"""``sparsecore plugins``: what is installed, without importing it."""

import json

import attrs
import click

from sparsecore.cli.tables import print_table
from sparsecore.plugin_listing import listings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array in place of the table.")
def plugins(*, as_json: bool) -> None:
    """List the installed plugins: kind, name, source, and a line about each.

    A broken plugin is listed with its error.
    """
    found = listings()
    if as_json:
        click.echo(json.dumps([attrs.asdict(listing) for listing in found], indent=1))
        return
    rows = [
        (listing.kind, listing.name, listing.source, f"BROKEN: {listing.error}" if listing.error else listing.summary)
        for listing in found
    ]
    print_table(("kind", "name", "source", "what it is"), rows)
