"""One's own images, from four arrays in a NumPy archive."""

import zipfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.checks import checked_images, checked_split
from sparsecore.data.files import is_file, readable
from sparsecore.data.images import Images, Split
from sparsecore.errors import InputError

_NAMES = ("x_train", "y_train", "x_test", "y_test")
_MOST_CLASSES = 1_000_000  # a label beyond is a mistake, and would ask for a last layer that fits nowhere


@attrs.frozen(eq=False)
class Npz:
    """One's own images: an .npz file with x_train, y_train, x_test and y_test.

    Images are uint8 of (examples, height, width) or (examples, height, width, channels), labels any integers from 0.
    There are as many classes as the greatest label of both splits says, plus one.

    Attributes:
        file: the .npz file; with a ``--data-dir`` a relative path starts there. Without ``file``, ``--data-dir`` is the
            .npz file itself or a folder with exactly one.
    """

    file: str | None = None

    def load(self, folder: Path | None) -> Images:
        """The images and labels of the archive; nothing in it is unpickled."""
        path = _chosen(folder) if self.file is None else (folder or Path()) / self.file
        arrays = _arrays(path)
        train, test = (_split(path, arrays, part) for part in ("train", "test"))
        classes = 1 + int(max(train.labels.max(), test.labels.max()))
        return checked_images(train, test, classes, path)


def _chosen(folder: Path | None) -> Path:
    if folder is None:
        raise InputError("the data set npz needs its option file, or a --data-dir with an .npz file; neither was given")
    if is_file(folder):
        return folder
    with readable(folder):
        found = sorted(path for path in folder.iterdir() if path.suffix == ".npz")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{folder} must have exactly one .npz file, or the option file must name it; it has {names}")
    return found[0]


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with readable(path), path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise InputError(f"{path} is not a whole .npz archive")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            missing = [name for name in _NAMES if name not in archive]
            if missing:
                raise InputError(f"{path} lacks {', '.join(missing)}; it has {', '.join(archive) or 'nothing'}")
            return {name: archive[name] for name in _NAMES}


def _split(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Split:
    x, y = f"x_{part}", f"y_{part}"
    return checked_split(
        arrays[x], arrays[y], _MOST_CLASSES, images_from=f"{x} of {path}", labels_from=f"{y} of {path}"
    )
