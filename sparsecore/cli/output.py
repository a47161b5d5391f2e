"""Where a command's result goes, and the sentence of an error."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO

_MENDABLE = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOENT", "ENOTDIR", "EISDIR"),
        *("EEXIST", "ENOTEMPTY", "ENAMETOOLONG", "ELOOP", "EPIPE", "EBUSY", "ETXTBSY", "ENOLCK", "EOPNOTSUPP", "ENXIO"),
        *("EINVAL", "EBADF", "ESTALE"),
    )
    if hasattr(errno, name)
)
"""System errors that the caller can mend: make room, name another folder, raise a limit."""


@contextmanager
def results() -> Iterator[TextIO]:
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
        point_to_standard_error()
        try:
            with redirect_stdout(sys.stderr):
                yield stream
                stream.flush()
        finally:
            os.dup2(kept, 1)


def point_to_standard_error() -> None:
    """From here on, what is written to standard output's descriptor comes out on standard error."""
    try:
        os.dup2(2, 1)
    except OSError:  # there is no standard error
        point_to_nowhere()


def point_to_nowhere() -> None:
    """From here on, what is written to standard output's descriptor is lost: it has been found to fail."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def system_sentence(error: OSError) -> str:
    """What the system refused, of which file, and what is to be done, where somebody has noted that."""
    what = error.strerror or str(error) or type(error).__name__
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return "; ".join([f"{files}: {what}" if files else what, *getattr(error, "__notes__", ())])


def system_status(error: OSError) -> int:
    """2 for what the caller can mend, 1 for a disk that fails and the like."""
    return 2 if error.errno in _MENDABLE else 1


def exit_sentence(error: SystemExit) -> str:
    """Which line of which file asked to exit; nothing of sparsecore's does."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{Path(frame.filename).name}, line {frame.lineno}, asked to exit ({error}) before the command had come to its "
        "end; a plugin raises an error instead"
    )
