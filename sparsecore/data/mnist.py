"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) from their IDX files."""

import gzip
import math
import struct
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.files import Origin, checked_folder, checked_images, checked_split, first_file, opened
from sparsecore.data.images import Images, Split
from sparsecore.errors import InputError

_MOST = 2**31
"""The largest array, in bytes; MNIST's has 47 million."""


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, decompressing it if its name ends in ``.gz``.

    Args:
        path: the file.
        dimensions: the number of dimensions that are expected.

    Raises:
        InputError: the file cannot be read, or is not a whole IDX file of bytes with so many dimensions.
    """
    start = 4 + 4 * dimensions
    with opened(path) as file:
        # what a compressed file unpacks to is known only when it is unpacked; its header says how much there may be
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        sides = _sides(path, stream.read(start), dimensions)
        promised = math.prod(sides)
        if promised > _MOST:
            raise InputError(f"{path} promises {_product(sides)} = {promised:,} bytes; at most {_MOST:,} are read")
        content = stream.read(promised + 1)
        if len(content) != promised:
            found = f"{len(content)} bytes or more" if len(content) > promised else f"{len(content)} bytes"
            raise InputError(f"{path} has {found} after its header, which promises {_product(sides)} = {promised}")
        # copied, because an array over ``bytes`` cannot be written to, and torch warns of such
        return np.frombuffer(content, np.uint8).reshape(sides).copy()


def _sides(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes([0, 0, 8, dimensions])
    if header[:4] != magic:
        raise InputError(
            f"{path} is not an IDX file of bytes in {dimensions} dimensions: "
            f"it starts with {header[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}"
        )
    expected = 4 + 4 * dimensions
    if len(header) < expected:
        raise InputError(f"{path} ends within its header, after {len(header)} bytes of {expected}")
    return struct.unpack(f">{dimensions}I", header[4:])


def _product(sides: tuple[int, ...]) -> str:
    return " × ".join(map(str, sides))


_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"

_MNIST = Origin(
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        f"train-{_IMAGES}.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        f"train-{_LABELS}.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        f"t10k-{_IMAGES}.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        f"t10k-{_LABELS}.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    },
)
_FASHION_MNIST = Origin(
    "FashionMNIST",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        f"train-{_IMAGES}.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        f"train-{_LABELS}.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        f"t10k-{_IMAGES}.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        f"t10k-{_LABELS}.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
)


@attrs.frozen(eq=False)
class Mnist:
    """28×28 grey handwritten digits, 60,000 for training and 10,000 for testing."""

    def load(self, folder: Path | None) -> Images:
        """Load the images from a folder, in the layout of torchvision or of the original site, or download them.

        The IDX files are looked for in ``folder/MNIST/raw``, ``folder/raw`` and ``folder``, raw and as ``.gz``; also
        by the names that Kaggle gives them, with a dot in ``train-images.idx3-ubyte``.

        Args:
            folder: where the files are; None to download the four of 12 MB into the cache, as far as they are not
                there.

        Returns:
            uint8 images of (examples, 28, 28, 1).

        Raises:
            InputError: a file is missing, damaged or no IDX file of the expected dimensions, or a download failed.
        """
        return _load(_MNIST, folder)


@attrs.frozen(eq=False)
class FashionMnist:
    """28×28 grey pictures of clothing, 60,000 for training and 10,000 for testing."""

    def load(self, folder: Path | None) -> Images:
        """Load the images from a folder, in the layout of torchvision or of the original site, or download them.

        The IDX files are looked for in ``folder/FashionMNIST/raw``, ``folder/raw`` and ``folder``, raw and as ``.gz``.

        Args:
            folder: where the files are; None to download the four of 31 MB into the cache, as far as they are not
                there.

        Returns:
            uint8 images of (examples, 28, 28, 1).

        Raises:
            InputError: a file is missing, damaged or no IDX file of the expected dimensions, or a download failed.
        """
        return _load(_FASHION_MNIST, folder)


def _load(origin: Origin, folder: Path | None) -> Images:
    train, test = _split(origin, folder, "train"), _split(origin, folder, "t10k")
    return checked_images(train, test, 10, folder or origin.name)


def _split(origin: Origin, folder: Path | None, part: str) -> Split:
    images, labels = (_located(origin, folder, f"{part}-{kind}") for kind in (_IMAGES, _LABELS))
    return checked_split(read_idx(images, 3), read_idx(labels, 1), 10, images_from=images, labels_from=labels)


def _located(origin: Origin, folder: Path | None, name: str) -> Path:
    if folder is None:
        return origin.fetch(f"{name}.gz")
    folders = (checked_folder(folder) / origin.name / "raw", folder / "raw", folder)
    names = (name, name.replace("-idx", ".idx"))
    return first_file(
        [each / f"{written}{ending}" for each in folders for written in names for ending in ("", ".gz")], f"{name} was"
    )
