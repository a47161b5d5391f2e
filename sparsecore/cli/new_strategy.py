"""``sparsecore new-strategy NAME DIR``: a plugin project to begin with."""

import shlex
import sys
from pathlib import Path

import click

from sparsecore.cli.output import say
from sparsecore.new_strategy import new_strategy as write_project


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
    say("\n".join(lines), sys.stdout)
