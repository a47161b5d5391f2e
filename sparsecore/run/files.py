"""Atomic writing of files and folders, locks, and logs that can be truncated to a known state."""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.toml_files import read_toml

_KEPT_OF_NAME = 40
"""Characters of a name kept in its temporary file's name, since the name may be as long as the file system allows."""
_ASIDE = re.compile(rf"\..{{1,{_KEPT_OF_NAME}}}\.\d+-[0-9a-f]{{8}}\.part", re.DOTALL)
"""Names of :func:`_aside`."""


def check_regular(path: Path, source: str) -> None:
    """Check that a path is a regular file that can be opened, not a folder, pipe or device.

    Args:
        path: the path.
        source: its name in errors.

    Raises:
        InputError: it is no regular file, or cannot be opened.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{source} cannot be read: it is no regular file")
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error


def read_regular_toml(file: Path) -> dict[str, Any]:
    """Read the tables of a TOML file in the folder of a run, a study or a lottery.

    Raises:
        InputError: it cannot be read, is no TOML, or is a pipe, which would be waited for.
    """
    if file.exists():
        check_regular(file, f"the file {file}")
    return read_toml(file)


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Set the file name of an OSError that has none, such as those of writing and flushing.

    Args:
        path: the file or folder that the body works on.

    Raises:
        OSError: the body raised it; it is passed on with its name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary file, flushed to the disk, then renamed; readers never see a part of it.

    Args:
        path: the file, which is replaced if it exists.
        content: its content.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    aside = _aside(path)
    try:
        with named_in_errors(path):
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def new_folder(path: Path, contents: Mapping[str, bytes], folders: Iterable[str] = ()) -> None:
    """Create a folder with these files atomically.

    Of several processes that create the same folder at the same time one succeeds: each fills a temporary folder in the
    same parent and renames it, which fails unless there is nothing, or an empty folder, at the path.

    Args:
        path: the folder; its parents are created, too.
        contents: the contents of files by their paths in it, with '/' between the parts of a path.
        folders: folders that are created in it, empty or not.

    Raises:
        FileExistsError: there is something at ``path`` that is not an empty folder.
        OSError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from None
    _remove_left_over_folders(path.parent)
    with ExitStack() as held:
        aside = _folder_aside(path, held)
        try:
            for name in folders:
                (aside / name).mkdir()
            for name, content in contents.items():
                write_whole(aside / name, content)
            _rename_folder(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    sync_folder(path.parent)


def _folder_aside(path: Path, held: ExitStack) -> Path:
    """Create a temporary folder next to the path, locked if possible, so that no other process removes it as stale."""
    while True:
        aside = _aside(path)
        aside.mkdir()
        if os.name != "posix":
            return aside
        try:
            descriptor = os.open(aside, os.O_RDONLY)
        except FileNotFoundError:  # another process has just removed it as stale
            continue
        held.callback(os.close, descriptor)
        with suppress(OSError):  # without locks on this file system, no process removes a folder as stale
            _lock(descriptor)
        if _is_at(descriptor, aside):
            return aside


def _remove_left_over_folders(parent: Path) -> None:
    """Remove the temporary folders of processes that were killed while they created a folder in this one."""
    for left in parent.glob(".*.part"):
        if _ASIDE.fullmatch(left.name):
            with suppress(OSError):  # its process is alive, another process removes it, or there are no locks
                _remove_if_left(left)


def _remove_if_left(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    try:
        _lock(descriptor)
        if _is_at(descriptor, folder):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the opened folder is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def remove_left_over(path: Path) -> None:
    """Remove the temporary files of killed processes for this file; call it only with the folder's lock held.

    Args:
        path: the file that they were to become; it need not exist.

    Raises:
        OSError: a file cannot be removed.
    """
    for left in path.parent.glob(f".{glob.escape(path.name[:_KEPT_OF_NAME])}.*.part"):
        left.unlink(missing_ok=True)


def _rename_folder(aside: Path, path: Path) -> None:
    try:
        aside.rename(path)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise


def _aside(path: Path) -> Path:
    """Return a temporary name next to the path that no other process and no other call uses."""
    return path.with_name(f".{path.name[:_KEPT_OF_NAME]}.{os.getpid()}-{secrets.token_hex(4)}.part")


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, where the system can: without this a rename may be lost when power fails.

    Args:
        folder: an existing folder.

    Raises:
        OSError: the disk reports an error.
    """
    if os.name == "posix":
        with named_in_errors(folder):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class BusyError(Exception):
    """Another process holds the lock."""


class Lock:
    """A lock on a file, held until it is released or the process ends, however it ends.

    It is the system's own. On NFS it holds among all machines whose lock service runs (Linux passes it on as a lock of
    byte ranges); where a file system has no locks, taking one fails rather than pretending.
    """

    def __init__(self, path: Path) -> None:
        """Acquire the lock.

        Raises:
            BusyError: another process has it.
            OSError: the file cannot be written to, or the file system has no locks.
        """
        self._file = path.open("r+b")  # NFS refuses an exclusive lock on a file that is open for reading only
        try:
            with named_in_errors(path):
                _lock(self._file.fileno())
        except BlockingIOError:
            self._file.close()
            raise BusyError from None
        except BaseException:
            self._file.close()
            raise

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


if sys.platform == "win32":
    _BEYOND = 1 << 30  # Windows keeps others from reading what is locked, so it is a byte that no file of ours has

    def _lock(descriptor: int) -> None:
        import msvcrt

        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@attrs.frozen
class LogState:
    """The state of a log at some time.

    Attributes:
        bytes: its length.
        blake2b: the digest of its content.
    """

    bytes: int
    blake2b: str


_DIGEST_SIZE = 16


def digest_of(content: bytes) -> str:
    """Return the digest of a log with this content, as in :class:`LogState`.

    Args:
        content: the log up to the end of a line.

    Returns:
        BLAKE2b of 128 bits, 32 hexadecimal digits.
    """
    return hashlib.blake2b(content, digest_size=_DIGEST_SIZE).hexdigest()


class LineLog:
    """A log of JSON lines, which can be truncated to the state that a checkpoint records.

    Attributes:
        lines: the number of lines in it.
    """

    def __init__(self, path: Path, known: LogState | None) -> None:
        """Open a log for appending, truncated to a known state.

        Args:
            path: the file, which is created if it is missing.
            known: the state; None for a log that begins.

        Raises:
            InputError: it is no regular file.
            ValueError: the file is shorter than it was, or what it had is not what was written; it is as it was.
            OSError: it cannot be opened.
        """
        if path.exists():
            check_regular(path, str(path))
        self._path, self.lines = path, 0
        self._digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
        with named_in_errors(path):
            self._file = path.open("a+b")
            try:
                self._cut_back(known)
            except BaseException:
                self._file.close()
                raise

    def _cut_back(self, known: LogState | None) -> None:
        size, length = self._file.seek(0, os.SEEK_END), known.bytes if known else 0
        if size < length:
            raise ValueError(f"{self._path.name} has {size} bytes, fewer than the {length} that were written")
        self._file.seek(0)
        left = length
        while left and (content := self._file.read(min(left, 1 << 20))):
            self._digest.update(content)
            self.lines += content.count(b"\n")
            left -= len(content)
        if known and self._digest.hexdigest() != known.blake2b:
            raise ValueError(f"{self._path.name} is not as it was written: a line of it has changed")
        self._file.truncate(length)
        self._file.seek(0, os.SEEK_END)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, which readers see at once; only :meth:`sync` brings it to the disk.

        Args:
            line: what JSON can hold.

        Raises:
            OSError: it cannot be written.
            ValueError: a number is NaN or infinite.
        """
        content = json.dumps(line, allow_nan=False).encode() + b"\n"
        with named_in_errors(self._path):
            self._file.write(content)
            self._file.flush()
        self._digest.update(content)
        self.lines += 1

    def sync(self) -> LogState:
        """Flush the log to the disk, and return its state."""
        with named_in_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return LogState(self._file.tell(), self._digest.hexdigest())

    def close(self) -> None:
        """Close the file."""
        with named_in_errors(self._path):
            self._file.close()
