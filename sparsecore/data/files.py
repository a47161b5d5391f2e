"""Finding, downloading and reading data files; every error names the file."""

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
    """A split from arrays that were read, after they are checked.

    Args:
        images: uint8, (examples, height, width) or (examples, height, width, channels).
        labels: any integers, (examples,), 0 to ``classes - 1``.
        classes: the largest number of classes.
        images_from: the source of the images, for errors.
        labels_from: the source of the labels, for errors.

    Raises:
        InputError: a shape, a dtype or a label is not as above, or there are no images, or not as many as labels.
    """
    _check_images(images, images_from)
    _check_labels(labels, classes, labels_from)
    if len(images) != len(labels):
        raise InputError(f"{images_from} has {len(images)} images, but {labels_from} has {len(labels)} labels")
    channels_last = images if images.ndim == 4 else images[..., None]
    return Split(np.ascontiguousarray(channels_last), labels.astype(np.int64))


def checked_images(train: Split, test: Split, classes: int, source: object) -> Images:
    """A data set of two splits.

    Args:
        train: the training images, as :func:`checked_split` returns them.
        test: the test images, likewise.
        classes: the number of classes.
        source: the file or the folder that they come from, for errors.

    Raises:
        InputError: their images differ in height, width or channels.
    """
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
    """The site that publishes the archives of a data set.

    Attributes:
        name: the data set's folder in the cache.
        base: the URL of the archives' folder, with a slash at the end.
        checksums: ``algorithm:hexadecimal`` of each archive, by file name.
    """

    name: str
    base: str
    checksums: Mapping[str, str]

    def fetch(self, archive: str) -> Path:
        """The path of an archive in the cache (pooch's for "sparsecore"), after downloading it if necessary.

        Args:
            archive: its file name, one of ``checksums``.

        Raises:
            InputError: the download failed, or its checksum is not the published one.
            MissingPackageError: a package that downloading needs is not installed.
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
    """Turn any error while a source is read into an :class:`InputError` that names it.

    Args:
        source: a path, or what an error message calls the source.

    Raises:
        InputError: the body raised an error of the system or of a parser; one that it raised itself is passed on.
    """
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
    """The content of a regular file.

    Raises:
        InputError: it cannot be read, or is a pipe or a device.
    """
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
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder raises an error of the operating system
            raise InputError(f"{path} cannot be read: it is no regular file")
        with path.open("rb") as stream:
            yield stream


class ByteStream(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Read at most so many bytes; none at the end."""
        ...


class Bounded(io.RawIOBase):
    """A decompressing stream that raises an error once it exceeds a number of bytes."""

    def __init__(self, stream: ByteStream, most: int, source: object) -> None:
        """Read at most ``most`` bytes of ``stream``, whose name in errors is ``source``."""
        self._stream, self._left, self._most, self._source = stream, most, most, source

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer, and return the number of bytes.

        Args:
            buffer: writeable bytes; at most as many are read.

        Returns:
            0 at the end of the stream.

        Raises:
            InputError: the stream has more bytes than are permitted.
        """
        content = self._stream.read(min(len(buffer), self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise InputError(f"{self._source} unpacks to more than {self._most:,} bytes, too much for such a file")
        buffer[: len(content)] = content
        return len(content)


def is_file(path: Path) -> bool:
    """Whether a path is a file.

    Raises:
        InputError: the system does not permit to find out.
    """
    with readable(path):
        # Path.is_file() alone differs between Python versions in what it does without permission
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return path.is_file()


def checked_folder(folder: Path) -> Path:
    """The folder itself, after checking that it is one.

    Raises:
        InputError: it does not exist, or is a file.
    """
    if is_file(folder):
        raise InputError(f"the data folder {folder} is a file, not a folder")
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist")
    return folder


def first_file(candidates: Sequence[Path], what: str) -> Path:
    """The first of the paths that is a file.

    Args:
        candidates: the paths.
        what: the subject of the error's sentence, such as "train-images was".

    Raises:
        InputError: none is a file; it lists them.
    """
    for path in candidates:
        if is_file(path):
            return path
    raise InputError(f"{what} not found; looked for {', '.join(map(str, candidates))}")
