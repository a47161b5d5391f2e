"""The command line: ``sparsecore train``, ``sparsecore plugins``, ``sparsecore report``."""

import sys

import click

from sparsecore.cli.plugins import plugins
from sparsecore.cli.report import report
from sparsecore.cli.train import train
from sparsecore.errors import InputError, SparsecoreError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsecore-engine")
def commands() -> None:
    """Train sparse networks whose weights move while they learn."""


commands.add_command(train)
commands.add_command(plugins)
commands.add_command(report)


def main() -> None:
    """Run the command line. Exit status: 0, 1 for a failed run, 2 for wrong input, 130 for an interrupt."""
    try:
        commands(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SparsecoreError as error:
        click.echo(f"sparsecore: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
