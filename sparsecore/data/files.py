"""Finding and reading a user's data files; whatever is wrong with one becomes a sentence that names it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
