"""Finding and reading a user's data files; whatever is wrong with one becomes a sentence that names it."""

import io
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sparsecore.errors import InputError


@contextmanager
def readable(source: object) -> Iterator[None]:
    """Raise an :class:`InputError` that names ``source`` for anything that fails while it is read."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # on damaged bytes the standard library's and NumPy's parsers raise nearly anything, MemoryError included
        raise InputError(f"{source} cannot be read: {str(error) or type(error).__name__}") from error


def content_of(path: Path) -> bytes:
    """The content of a file; an :class:`InputError` where it cannot be read, or is a pipe or a device."""
    with opened(path) as stream:
        return stream.read()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Raises:
        InputError: it cannot be opened, or is a folder, a pipe or a device, which may have no end; or something fails
            while it is read.
    """
    with readable(path):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # the system itself has a word for opening a folder
            raise InputError(f"{path} cannot be read: it is no regular file")
        with path.open("rb") as stream:
            yield stream


class Reading(Protocol):
    """What has bytes."""

    def read(self, size: int, /) -> bytes:
        """At most so many of the next ones; none at the end."""
        ...


class Bounded(io.RawIOBase):
    """What a compressed stream has, up to a number of bytes; one more is an error."""

    def __init__(self, stream: Reading, most: int, source: object) -> None:
        """Read ``stream``; errors call it ``source``."""
        self._stream, self._left, self._most, self._source = stream, most, most, source

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is something."""
        content = self._stream.read(min(len(buffer), self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise InputError(f"{self._source} unpacks to more than {self._most:,} bytes, too much for such a file")
        buffer[: len(content)] = content
        return len(content)


def is_file(path: Path) -> bool:
    """Whether there is such a file; an :class:`InputError` where that cannot be found out."""
    with readable(path):
        # Path.is_file() alone differs between Python versions in what it does without permission
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return path.is_file()


def checked_folder(folder: Path) -> Path:
    """The folder itself; an :class:`InputError` if it does not exist or is not one."""
    if is_file(folder):
        raise InputError(f"the data folder {folder} is a file, not a folder")
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist")
    return folder


def first_file(candidates: Sequence[Path], what: str) -> Path:
    """The first of the paths that is a file; an :class:`InputError` lists them if none is."""
    for path in candidates:
        if is_file(path):
            return path
    raise InputError(f"{what} not found; looked for {', '.join(map(str, candidates))}")
