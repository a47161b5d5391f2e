"""Finding and reading a user's data files; whatever is wrong with one becomes a sentence that names it."""

import io
import logging
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Images, Split
from sparsecore.errors import InputError
from sparsecore.extras import require


def checked_split(
    images: NDArray[Any], labels: NDArray[Any], classes: int, *, images_from: object, labels_from: object
) -> Split:
    """A split of arrays as they were read.

    Args:
        images: uint8, (examples, height, width) or (examples, height, width, channels).
        labels: any integers, (examples,), 0 to ``classes - 1``.
        classes: how many classes there may be.
        images_from: where the images were read, for the sentences.
        labels_from: where the labels were read.

    Raises:
        InputError: something is not as above, there are no images, or not as many as labels.
    """
    _check_images(images, images_from)
    _check_labels(labels, classes, labels_from)
    if len(images) != len(labels):
        raise InputError(f"{images_from} has {len(images)} images, but {labels_from} has {len(labels)} labels")
    channels_last = images if images.ndim == 4 else images[..., None]
    return Split(np.ascontiguousarray(channels_last), labels.astype(np.int64))


def checked_images(train: Split, test: Split, classes: int, source: object) -> Images:
    """The data set of two splits; an :class:`InputError` if their images differ in shape."""
    shapes = [" × ".join(map(str, split.images.shape[1:])) for split in (train, test)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{source}: training images of {shapes[0]}, but test images of {shapes[1]}")
    return Images(train, test, classes)


def _check_images(images: NDArray[Any], source: object) -> None:
    if images.dtype != np.uint8:
        raise InputError(f"{source}: images of dtype {images.dtype}, expected uint8")
    if images.ndim not in {3, 4} or min(images.shape[1:]) < 1:
        raise InputError(
            f"{source}: images of shape {images.shape}, expected (examples, height, width) or "
            "(examples, height, width, channels)"
        )
    if len(images) == 0:
        raise InputError(f"{source} has no images")


def _check_labels(labels: NDArray[Any], classes: int, source: object) -> None:
    if labels.dtype.kind not in "iu":
        raise InputError(f"{source}: labels of dtype {labels.dtype}, expected integers")
    if labels.ndim != 1:
        raise InputError(f"{source}: labels of shape {labels.shape}, expected (examples,)")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(f"{source} has the label {wrong[0]}, expected 0 to {classes - 1}")


@attrs.frozen
class Origin:
    """Where a data set's archives are published.

    Attributes:
        name: the folder of the cache that keeps them apart from those of other data sets.
        base: the URL of the folder that has the archives, with a slash at the end.
        checksums: ``algorithm:hexadecimal`` of each archive, by file name.
    """

    name: str
    base: str
    checksums: Mapping[str, str]

    def fetch(self, archive: str) -> Path:
        """The archive in the cache (pooch's for "sparsecore"), downloaded if it is not there yet.

        Raises:
            InputError: the download failed, or what came is not the published file.
        """
        require("pooch", "requests", "tqdm", extra="data", purpose=f"downloading {archive}")
        import pooch
        import requests

        # pooch's logger writes to stderr whether or not that is a terminal
        pooch.get_logger().setLevel(logging.WARNING)
        url = self.base + archive
        folder = Path(pooch.os_cache("sparsecore")) / self.name
        show = sys.stderr.isatty()
        try:
            return Path(pooch.retrieve(url, self.checksums[archive], archive, folder, progressbar=show))
        except requests.ConnectionError as error:
            raise _failed(url, "there is no connection") from error
        except OSError as error:
            raise _failed(url, str(error)) from error
        except ValueError as error:
            raise _failed(url, "its checksum is not the published one") from error


def _failed(url: str, reason: str) -> InputError:
    return InputError(
        f"{url} could not be downloaded: {reason}; with --data-dir you can name a folder that has the files"
    )


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
