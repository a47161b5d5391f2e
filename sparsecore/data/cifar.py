"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their pickles for Python, in a folder or in the archive."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import attrs
import numpy as np

from sparsecore.data.files import (
    Bounded,
    Origin,
    checked_folder,
    checked_images,
    checked_split,
    content_of,
    first_file,
    opened,
)
from sparsecore.data.images import Images, Split
from sparsecore.data.pickles import array_of, read_pickle
from sparsecore.errors import InputError

_MOST = 2**31
"""The largest size of an unpacked archive, in bytes; the published ones have 186 million."""

_SITE = "https://www.cs.toronto.edu/~kriz/"


@attrs.frozen
class _Edition:
    """The files of CIFAR-10 or CIFAR-100: the archive, the folder in it, the files, and the name of the labels."""

    origin: Origin
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: str
    classes: int


_CIFAR10 = _Edition(
    origin=Origin("CIFAR", _SITE, {"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"}),
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    labels="labels",
    classes=10,
)
_CIFAR100 = _Edition(
    origin=Origin("CIFAR", _SITE, {"cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"}),
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    labels="fine_labels",
    classes=100,
)


@attrs.frozen(eq=False)
class Cifar10:
    """32×32 colour images of 10 classes, 50,000 for training and 10,000 for testing."""

    def load(self, folder: Path | None) -> Images:
        """Load the images from a folder, or download them.

        The candidates are ``folder/cifar-10-batches-py``, the same files in ``folder`` itself, and
        ``folder/cifar-10-python.tar.gz``, which is read as it is.

        Args:
            folder: where the files are; None to download the archive of 170 MB into the cache, if it is not there.

        Returns:
            uint8 images of (examples, 32, 32, 3); the training images are in the order of their five files.

        Raises:
            InputError: a file is missing, damaged or not of CIFAR-10, or the download failed.
        """
        return _load(_CIFAR10, folder)


@attrs.frozen(eq=False)
class Cifar100:
    """32×32 colour images of 100 classes (the fine labels), 50,000 for training and 10,000 for testing."""

    def load(self, folder: Path | None) -> Images:
        """Load the images from a folder, or download them.

        The candidates are ``folder/cifar-100-python``, the same files in ``folder`` itself, and
        ``folder/cifar-100-python.tar.gz``, which is read as it is.

        Args:
            folder: where the files are; None to download the archive of 169 MB into the cache, if it is not there.

        Returns:
            uint8 images of (examples, 32, 32, 3).

        Raises:
            InputError: a file is missing, damaged or not of CIFAR-100, or the download failed.
        """
        return _load(_CIFAR100, folder)


def _load(edition: _Edition, folder: Path | None) -> Images:
    found = edition.origin.fetch(edition.archive) if folder is None else _located(edition, checked_folder(folder))
    splits = _archived(edition, found) if found.name == edition.archive else _unpacked(edition, found.parent)
    train = [splits[name] for name in edition.train]
    joined = Split(np.concatenate([part.images for part in train]), np.concatenate([part.labels for part in train]))
    return checked_images(joined, splits[edition.test], edition.classes, found)


def _located(edition: _Edition, folder: Path) -> Path:
    """The path of the archive, or of the first of the unpacked files."""
    first = edition.train[0]
    candidates = [folder / edition.folder / first, folder / first, folder / edition.archive]
    return first_file(candidates, f"{edition.folder} was")


def _unpacked(edition: _Edition, folder: Path) -> Mapping[str, Split]:
    splits = {}
    for name in (*edition.train, edition.test):
        splits[name] = _split(edition, content_of(folder / name), folder / name)
    return splits


def _archived(edition: _Edition, archive: Path) -> Mapping[str, Split]:
    names = {*edition.train, edition.test}
    splits = {}
    with (
        opened(archive) as file,
        io.BufferedReader(Bounded(gzip.GzipFile(fileobj=file), _MOST, archive)) as stream,
        tarfile.open(fileobj=stream, mode="r|") as members,
    ):
        for member in members:
            path = PurePosixPath(member.name)
            entry = members.extractfile(member) if path.parent.name == edition.folder and path.name in names else None
            if entry is not None:
                splits[path.name] = _split(edition, entry.read(), f"{path} in {archive}")
        while stream.read(1 << 20):
            pass  # gzip compares its checksum, which is at its end, only when all is read
    missing = sorted(names - splits.keys())
    if missing:
        raise InputError(f"{archive} lacks {', '.join(f'{edition.folder}/{name}' for name in missing)}")
    return splits


def _split(edition: _Edition, content: bytes, source: object) -> Split:
    entries = read_pickle(content, source)
    images, labels = (array_of(_entry(entries, name, source), source) for name in ("data", edition.labels))
    if images.ndim != 2 or images.shape[1] != 3 * 32 * 32:
        raise InputError(f"{source}: data of shape {images.shape}, expected (images, 3072)")
    channels_last = images.reshape(len(images), 3, 32, 32).transpose(0, 2, 3, 1)
    return checked_split(channels_last, labels, edition.classes, images_from=source, labels_from=source)


def _entry(entries: Mapping[object, object], name: str, source: object) -> object:
    """The entry of this name, which is bytes in the original files and str in what Python 3 may have written."""
    for key in (name.encode(), name):
        if key in entries:
            return entries[key]
    raise InputError(f"{source} has no {name!r}; it has {', '.join(map(repr, entries)) or 'nothing'}")
