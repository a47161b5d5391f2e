"""The user's own images, from four arrays in a NumPy archive."""

import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.files import checked_images, checked_split, is_file, opened, readable
from sparsecore.data.images import Images, Split
from sparsecore.errors import InputError, InputWarning

_NAMES = ("x_train", "y_train", "x_test", "y_test")
_MOST_CLASSES = 1_000_000  # a label beyond is a mistake, and would ask for a last layer that fits nowhere
_USUAL_CHANNELS = (1, 3, 4)
_SUSPICIOUS_BYTES = 2**30
_LEAST_DENSE = 1 / 200  # what is packed more densely than this has no images in it

_classes: Any = attrs.validators.optional(attrs.validators.and_(attrs.validators.ge(1), attrs.validators.le(10**6)))


@attrs.frozen(eq=False)
class Npz:
    """The user's own images: an .npz file with x_train, y_train, x_test and y_test.

    Images are uint8 of (examples, height, width) or (examples, height, width, channels), labels any integers from 0.
    The number of classes is the largest label of both splits plus one.

    Attributes:
        file: the .npz file; with a ``--data-dir`` a relative path starts there. Without ``file``, ``--data-dir`` is the
            .npz file itself or a folder with exactly one.
        channels: 'last', or 'first' for images of (examples, channels, height, width).
        first_label: the label of the first class; labels are counted from there.
        classes: the number of classes; by the largest label if None.
    """

    file: str | None = None
    channels: Literal["last", "first"] | None = None
    first_label: int = 0
    classes: int | None = attrs.field(default=None, validator=_classes)

    def load(self, folder: Path | None) -> Images:
        """Load the arrays of the archive; nothing in it is unpickled.

        An :class:`sparsecore.errors.InputWarning` says where the arrays look as if another setting was meant.

        Args:
            folder: ``--data-dir``; None if the option ``file`` names the archive by itself.

        Raises:
            InputError: there is no such file, it lacks an array, or an array is not as the class describes; or it is
                packed far more densely than images can be.
        """
        path = _chosen(folder) if self.file is None else (folder or Path()) / self.file
        arrays = _arrays(path)
        train, test = (self._split(path, arrays, part) for part in ("train", "test"))
        classes = self.classes or 1 + int(max(train.labels.max(), test.labels.max()))
        self._warn(path, train, classes)
        return checked_images(train, test, classes, path)

    def _split(self, path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Split:
        x, y = f"x_{part}", f"y_{part}"
        images, labels = arrays[x], arrays[y]
        if self.channels == "first":
            if images.ndim != 4:
                raise InputError(
                    f"{x} of {path}: images of shape {images.shape}; with data.channels = 'first', (examples, "
                    "channels, height, width) was expected"
                )
            images = np.moveaxis(images, 1, -1)
        if self.first_label and labels.dtype.kind in "iu":
            labels = labels.astype(np.int64) - self.first_label
        return checked_split(
            images, labels, self.classes or _MOST_CLASSES, images_from=f"{x} of {path}", labels_from=f"{y} of {path}"
        )

    def _warn(self, path: Path, train: Split, classes: int) -> None:
        height, width, channels = train.images.shape[1:]
        if self.channels is None and channels not in _USUAL_CHANNELS and height in _USUAL_CHANNELS:
            _warn(
                f"the images of {path} are taken for {height}×{width} pixels of {channels} channels; if the channels "
                f"come first, set data.channels='first', and if not, data.channels='last'"
            )
        missing = np.setdiff1d(np.arange(classes), train.labels)
        if self.classes is None and self.first_label == 0 and len(missing):
            named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            counted = (
                "if labels are counted from 1, set data.first_label=1, and if not, "
                if missing[0] == 0
                else "if that is meant, set "
            )
            _warn(
                f"no training image of {path} has the label {named}, of {classes} classes; {counted}"
                f"data.classes={classes}"
            )


def _warn(sentence: str) -> None:
    warnings.warn(sentence, InputWarning, stacklevel=2)


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
    with opened(path) as stream:
        if not zipfile.is_zipfile(stream):
            raise InputError(f"{path} is not a whole .npz archive")
        stream.seek(0)
        _check_density(path, stream)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            missing = [name for name in _NAMES if name not in archive]
            if missing:
                raise InputError(f"{path} lacks {', '.join(missing)}; it has {', '.join(archive) or 'nothing'}")
            return {name: archive[name] for name in _NAMES}


def _check_density(path: Path, stream: BinaryIO) -> None:
    """Raise an :class:`InputError` where arrays are compressed far more than images can be, before unpacking them."""
    with zipfile.ZipFile(stream) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.removesuffix(".npy") in _NAMES]
    unpacked, packed = (sum(getattr(entry, size) for entry in entries) for size in ("file_size", "compress_size"))
    if unpacked > _SUSPICIOUS_BYTES and packed < unpacked * _LEAST_DENSE:
        raise InputError(f"{path} unpacks {packed:,} bytes to {unpacked:,}, which are no images; it is not read")
