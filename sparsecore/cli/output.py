"""The output of commands: results on standard output, everything else on standard error, no control characters."""

import errno
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import click

from sparsecore.errors import SparsecoreError, printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console

_USER_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOENT", "ENOTDIR", "EISDIR"),
        *("EEXIST", "ENOTEMPTY", "ENAMETOOLONG", "ELOOP", "EPIPE", "EBUSY", "ETXTBSY", "ENOLCK", "EOPNOTSUPP", "ENXIO"),
        *("EINVAL", "EBADF", "ESTALE"),
    )
    if hasattr(errno, name)
)
"""System errors that the user can resolve: free disk space, name another folder, raise a limit."""


def print_message(text: str, stream: TextIO | None = None) -> None:
    """Print a text, with control characters from file names, settings or plugins written out.

    Args:
        text: one or several lines.
        stream: stream to print on; standard error if None.
    """
    click.echo(printable_lines(text), file=stream, err=stream is None)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected error; a replacement for ``sys.excepthook``, whose arguments it takes.

    Args:
        kind: the error's class.
        error: the error, whose causes and notes are printed too.
        trace: where it was raised; None if it never was.
    """
    with suppress(OSError):  # standard error may be closed; the exit status remains
        print_message("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Iterable[int] = (),
    file: TextIO | None = None,
    width: int = 1000,
) -> None:
    """Print a table; long cells are wrapped, never truncated.

    Args:
        head: titles of the columns.
        rows: texts of the cells.
        numbers: indices of the columns that are aligned at the right.
        file: stream to print on; standard output if None.
        width: maximum length of a line if the stream is not a terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    right = set(numbers)
    table = Table(box=SIMPLE_HEAD)
    for i, title in enumerate(head):
        table.add_column(title, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(entry)) for entry in row))  # as text, because names may look like markup
    out = console(file)
    # without a terminal, lines are as long as necessary, so that other programs can read them
    (out if out.is_terminal else console(file, width=width)).print(table)


def console(file: TextIO | None, **options: Any) -> "Console":
    """Create a rich console that raises the error of a closed pipe instead of exiting.

    Args:
        file: the stream to print on; standard output if None.
        options: of ``rich.console.Console``, such as ``width`` in columns.
    """
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704  (rich calls it within the except clause)

    return _Console(file=file, **options)


class PluginExitError(SparsecoreError):
    """A plugin raised an exception of click, which click would take for the end or an interrupt of the command."""


@contextmanager
def result_stream() -> Iterator[TextIO]:
    """Reserve standard output for the result of a command.

    Whatever plugins, libraries or processes that they start print meanwhile appears on standard error.

    Yields:
        The stream for the result.

    Raises:
        PluginExitError: the body raised an exception of click; no command does, so it comes from a plugin.
    """
    try:
        with _reserved_stdout() as stream:
            yield stream
    except (click.exceptions.Exit, click.exceptions.Abort, click.ClickException) as error:
        raise PluginExitError(describe_exit(error)) from error


@contextmanager
def _reserved_stdout() -> Iterator[TextIO]:
    own: TextIO = sys.stdout
    if sys.stdout is None:  # closed by the parent process
        with Path(os.devnull).open("w", encoding="utf-8") as discarded:
            yield discarded
        return
    if own is not sys.__stdout__ or own.fileno() != 1:
        with redirect_stdout(sys.stderr):
            yield own
        return
    own.flush()
    kept = os.dup(1)
    with os.fdopen(kept, "w", encoding=own.encoding, errors=own.errors) as stream:
        redirect_stdout_to_stderr()
        try:
            with redirect_stdout(sys.stderr):
                yield stream
                stream.flush()
        finally:
            os.dup2(kept, 1)


def redirect_stdout_to_stderr() -> None:
    """Redirect the file descriptor of standard output to standard error."""
    try:
        os.dup2(2, 1)
    except OSError:  # there is no standard error
        discard_stdout()


def discard_stdout() -> None:
    """Redirect the file descriptor of standard output, to which writing has failed, to the null device."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def describe_os_error(error: OSError) -> str:
    """Describe what the system refused, for which file, and what the error's notes add."""
    what = error.strerror or str(error) or type(error).__name__
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return "; ".join([f"{files}: {what}" if files else what, *_notes(error)])


def os_error_status(error: OSError) -> int:
    """Return the exit status of a command that ends with an error of the system.

    Args:
        error: the error, whose ``errno`` decides.

    Returns:
        2 for what the user can resolve, such as a full disk or a missing permission; 1 for a failing disk and the like.
    """
    return 2 if error.errno in _USER_ERRORS else 1


def describe_memory_error(error: MemoryError) -> str:
    """Describe what memory did not suffice for: the allocation, the hook or the line of code, as far as known."""
    reason = "; ".join(filter(None, [str(error), *_notes(error)])) or _raised_at(error)
    return f"there is not enough memory: {reason}"


def describe_exit(error: BaseException) -> str:
    """Describe an exit requested by a plugin; sparsecore itself never requests one.

    Args:
        error: an exception that has been raised, so that its traceback says where.
    """
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    where = "; ".join([_raised_at(error), *_notes(error)])
    return f"a plugin asked to exit before the command had finished ({what}, {where}); it should raise an error instead"


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _raised_at(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"
