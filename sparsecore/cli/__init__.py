"""The command line: ``sparsecore train``, ``lottery``, ``plugins``, ``report``, ``check`` and ``new-strategy``."""

import io
import sys

import click

from sparsecore.cli.check import check
from sparsecore.cli.lottery import lottery
from sparsecore.cli.new_strategy import new_strategy
from sparsecore.cli.plugins import plugins
from sparsecore.cli.report import report
from sparsecore.cli.study import study
from sparsecore.cli.train import train
from sparsecore.errors import InputError, SparsecoreError
from sparsecore.launch import launch


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsecore-engine")
def commands() -> None:
    """Train sparse networks whose weights move while they learn."""


commands.add_command(train)
commands.add_command(lottery)
commands.add_command(plugins)
commands.add_command(report)
commands.add_command(study)
commands.add_command(check)
commands.add_command(new_strategy)


def main() -> None:
    """Run the command line. Exit status: 0, 1 for a failed run, 2 for wrong input, 130 for an interrupt."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no × or ζ shows a question mark
    try:
        commands(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        if _speaks(None):
            error.show()
        sys.exit(error.exit_code)
    except SparsecoreError as error:
        if _speaks(error.told_by):
            speaker = f"rank {error.told_by}: " if error.told_by else ""
            click.echo(f"sparsecore: {speaker}{_on_one_line(str(error))}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except MemoryError as error:
        click.echo(f"sparsecore: there is not enough memory for this: {_on_one_line(str(error))}", err=True)
        sys.exit(1)


def _speaks(told_by: int | None) -> bool:
    """Whether it is this process, of several that train together, that says what all of them know."""
    try:
        process = launch()
    except InputError:
        return True
    return process.local_rank == 0 if told_by is None else process.rank == told_by


def _on_one_line(sentence: str) -> str:
    """The sentence with what a terminal would obey (line ends, escapes) written out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in sentence)
