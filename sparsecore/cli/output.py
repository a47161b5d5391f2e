"""Where a command's result goes, and how all else is printed: no text reaches a terminal with control characters."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

import click

from sparsecore.errors import printable_lines

_USER_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOENT", "ENOTDIR", "EISDIR"),
        *("EEXIST", "ENOTEMPTY", "ENAMETOOLONG", "ELOOP", "EPIPE", "EBUSY", "ETXTBSY", "ENOLCK", "EOPNOTSUPP", "ENXIO"),
        *("EINVAL", "EBADF", "ESTALE"),
    )
    if hasattr(errno, name)
)
"""System errors that the caller can mend: make room, name another folder, raise a limit."""


def print_message(text: str, stream: TextIO | None = None) -> None:
    """Print a text for people: control characters that file names, settings or plugins brought in are written out.

    Args:
        text: of one or several lines.
        stream: standard error, if None.
    """
    click.echo(printable_lines(text), file=stream, err=stream is None)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nobody expected, as ``sys.excepthook`` does."""
    with suppress(OSError):  # where even this cannot be said, the status has to do
        print_message("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


@contextmanager
def result_stream() -> Iterator[TextIO]:
    """Standard output for the result alone.

    Whatever else is written there meanwhile, by a plugin that prints when it is loaded or run, by a library or by a
    process that they start, comes out on standard error.

    Yields:
        The stream for the result.
    """
    own: TextIO = sys.stdout
    if sys.stdout is None:  # closed by the process that started this one
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            yield nowhere
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
    """From here on, what is written to standard output's descriptor comes out on standard error."""
    try:
        os.dup2(2, 1)
    except OSError:  # there is no standard error
        discard_stdout()


def discard_stdout() -> None:
    """From here on, what is written to standard output's descriptor is lost: it has been found to fail."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def describe_os_error(error: OSError) -> str:
    """What the system refused, of which file, and what is to be done, where somebody has noted that."""
    what = error.strerror or str(error) or type(error).__name__
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return "; ".join([f"{files}: {what}" if files else what, *_notes(error)])


def describe_memory_error(error: MemoryError) -> str:
    """What the memory did not suffice for, as far as it is known: what was to be allocated, which hook, which line."""
    reason = "; ".join(filter(None, [str(error), *_notes(error)])) or _raised_at(error)
    return f"there is not enough memory for this: {reason}"


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _raised_at(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def os_error_status(error: OSError) -> int:
    """2 for what the caller can mend, 1 for a disk that fails and the like."""
    return 2 if error.errno in _USER_ERRORS else 1


def describe_exit(error: SystemExit) -> str:
    """Which line of which file asked to exit; nothing of sparsecore's does."""
    return (
        f"{_raised_at(error)}, asked to exit ({error}) before the command had finished; a plugin raises an error "
        "instead"
    )
