"""The commands together, and what becomes of their errors: one sentence and an exit status."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

import click

from sparsecore.cli.check import check
from sparsecore.cli.lottery import lottery
from sparsecore.cli.output import (
    describe_exit,
    describe_memory_error,
    describe_os_error,
    discard_stdout,
    os_error_status,
    print_message,
    print_traceback,
    redirect_stdout_to_stderr,
)
from sparsecore.cli.plugins import new_strategy, plugins
from sparsecore.cli.report import report
from sparsecore.cli.study import study
from sparsecore.cli.train import train
from sparsecore.errors import InputError, InputWarning, SparsecoreError, printable
from sparsecore.learning.ranks import launch


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


def run_process() -> None:
    """Run the command line and end the process with the exit status of :func:`run`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no × or ζ shows a question mark
    warnings.showwarning = _show_warning
    sys.excepthook = print_traceback
    status = run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        # what plugins print when the process ends is no part of the result
        redirect_stdout_to_stderr()
    except OSError as error:
        discard_stdout()
        if status == 0:
            status = os_error_status(error)
            _say(describe_os_error(error))
    sys.exit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line within a process that goes on; whatever goes wrong is said on standard error.

    Args:
        arguments: those of the process, if None.

    Returns:
        The exit status: 0, 1 for a failed run, 2 for wrong input, 130 for an interrupt.
    """
    streams = sys.stdout, sys.stderr
    try:
        status: int = commands(arguments, standalone_mode=False) or 0
    except click.exceptions.Abort as error:
        status = 130
        if isinstance(error.__cause__, EOFError):  # click takes a plugin that reads past an end for an interrupt
            raise error.__cause__ from None
    except click.ClickException as error:
        status = error.exit_code
        if _speaks(None):
            print_message(_usage(error))
    except SparsecoreError as error:
        status = 2 if isinstance(error, InputError) else 1
        if _speaks(error.reported_by):
            _say(f"rank {error.reported_by}: {error}" if error.reported_by else str(error))
    except OSError as error:
        status = os_error_status(error)
        _say(describe_os_error(error))
    except MemoryError as error:
        status = 1
        _say(describe_memory_error(error))
    except SystemExit as error:
        status, sentence = 1, describe_exit(error)
        if (sys.stdout, sys.stderr) != streams:  # click exits and puts others there where its reader went away
            sys.stdout, sys.stderr = streams
            gone = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            status, sentence = os_error_status(gone), describe_os_error(gone)
        _say(sentence)
    return status


def _usage(error: click.ClickException) -> str:
    """What click says of a command that was misspelt: how it is written, and what is wrong."""
    said = io.StringIO()
    error.show(said)
    return said.getvalue().rstrip("\n")


def _say(sentence: str) -> None:
    with suppress(OSError):  # where even this cannot be said, the status has to do
        print_message(f"sparsecore: {printable(sentence)}")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say a warning that is for users as a sentence, on one rank; show all others as Python does."""
    if not issubclass(category, InputWarning):
        print_message(warnings.formatwarning(message, category, filename, lineno, line).rstrip("\n"), file)
    elif _speaks(None):
        _say(f"warning: {message}")


def _speaks(reported_by: int | None) -> bool:
    """Whether it is this process, of several that train together, that says what all of them know."""
    try:
        process = launch()
    except InputError:
        return True
    return process.local_rank == 0 if reported_by is None else process.rank == reported_by
