"""All commands together, and how their errors become one sentence and an exit status."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
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
from sparsecore.cli.study import study
from sparsecore.cli.train import report, train
from sparsecore.errors import InputError, InputWarning, SparsecoreError, printable
from sparsecore.learning.ranks import launch


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparsecore-engine", message="sparsecore %(version)s")
def commands() -> None:
    """Dynamic sparse training.

    Train networks that are sparse from the first step, while a strategy moves their active weights.
    """


for command in (train, lottery, study, report, plugins, check, new_strategy):
    commands.add_command(command)


def run_process() -> None:
    """Run the command line and end the process with the exit status of :func:`run`."""
    if sys.stderr is None:  # closed, which is not what libraries expect: NumPy 2.0 would raise when it is imported
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # print "?" where a terminal has no × or ζ
    warnings.showwarning = _show_warning
    sys.excepthook = print_traceback
    status = run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        # what plugins print when the process ends is not part of the result
        redirect_stdout_to_stderr()
    except OSError as error:
        discard_stdout()
        if status == 0:
            status = os_error_status(error)
            _print_error(describe_os_error(error))
    sys.exit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line within a process that continues, with errors printed on standard error.

    Args:
        arguments: arguments of the command line; those of the process if None.

    Returns:
        The exit status: 0 for success, 1 for a failed run, 2 for wrong input, 130 for an interrupt.

    Raises:
        Exception: an unexpected error, such as one that a plugin raises in a hook.
    """
    streams = sys.stdout, sys.stderr
    try:
        status: int = commands(arguments, standalone_mode=False) or 0
    except click.exceptions.Abort as error:
        status = 130
        reason = error.__cause__ or error.__context__  # old releases of click name no cause
        if isinstance(reason, EOFError):  # click also aborts when a plugin reads past the end of a stream
            raise reason from None
    except click.ClickException as error:
        status = error.exit_code
        if _prints_for(None):
            print_message(_usage(error))
    except SparsecoreError as error:
        status = 2 if isinstance(error, InputError) else 1
        if _prints_for(error.reported_by):
            _print_error(f"rank {error.reported_by}: {error}" if error.reported_by else str(error))
    except OSError as error:
        status = os_error_status(error)
        _print_error(describe_os_error(error))
    except MemoryError as error:
        status = 1
        _print_error(describe_memory_error(error))
    except SystemExit as error:
        status, sentence = 1, describe_exit(error)
        if (sys.stdout, sys.stderr) != streams:  # click replaces both and exits when the reader of a pipe has gone
            sys.stdout, sys.stderr = streams
            broken_pipe = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            status, sentence = os_error_status(broken_pipe), describe_os_error(broken_pipe)
        _print_error(sentence)
    return status


def _usage(error: click.ClickException) -> str:
    """Return click's description of a wrong command: its usage and what is wrong."""
    text = io.StringIO()
    error.show(text)
    return text.getvalue().rstrip("\n")


def _print_error(sentence: str) -> None:
    with suppress(OSError):  # standard error may be closed; the exit status remains
        print_message(f"sparsecore: {printable(sentence)}")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning for users as a sentence, on one rank; print all others as Python does."""
    if not issubclass(category, InputWarning):
        print_message(warnings.formatwarning(message, category, filename, lineno, line).rstrip("\n"), file)
    elif _prints_for(None):
        _print_error(f"warning: {message}")


def _prints_for(reported_by: int | None) -> bool:
    """Return whether this process prints a message that all processes of a training have."""
    try:
        process = launch()
    except InputError:
        return True
    return process.local_rank == 0 if reported_by is None else process.rank == reported_by
