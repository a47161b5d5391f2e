"""Files that are either whole or not there, whenever the process ends."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write aside, flush to the disk, and rename: a reader sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def new_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    """Make a folder that has these files from its first moment on.

    Raises:
        OSError: there is something at ``path`` that is not an empty folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from None
    aside = path.with_name(f".{path.name}.part")
    aside.mkdir(exist_ok=True)  # one may be left from a process that was killed
    try:
        for name, content in contents.items():
            write_whole(aside / name, content)
        aside.rename(path)
    except BaseException:
        for file in aside.iterdir():
            file.unlink()
        aside.rmdir()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class BusyError(Exception):
    """Another process holds the lock."""


class Lock:
    """A lock on a file, held until it is released or the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            BusyError: another process has it.
        """
        self._file = path.open("rb")
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError:
            self._file.close()
            raise BusyError from None

    def release(self) -> None:
        """Let others in."""
        self._file.close()


class LineLog:
    """A file of JSON lines that grows at its end, and can be cut back to a length that a checkpoint knew."""

    def __init__(self, path: Path, length: int) -> None:
        """Open for appending at ``length`` bytes; what lies beyond is cut off.

        Raises:
            ValueError: the file is shorter than ``length``.
        """
        self._file = path.open("ab")
        size = self._file.seek(0, os.SEEK_END)
        if size < length:
            self._file.close()
            raise ValueError(f"{path.name} has {size} bytes, fewer than the {length} that were written")
        self._file.truncate(length)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; a reader sees it at once."""
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Flush to the disk; the length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
