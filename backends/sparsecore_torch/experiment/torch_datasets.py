"""Map-style data sets of PyTorch, of torchvision or anybody's, as the data set of an experiment."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError, listed
from sparsecore_torch.experiment.keyed_draws import drawing_by
from sparsecore_torch.experiment.module_model import called
from sparsecore_torch.experiment.streams import StreamedImages, StreamedSplit
from sparsecore_torch.experiment.transforms import Transform, selections_in, transform_of, warn_of_unequal_normalization

_SHOWN = 12
_SAMPLED = 16
"""The number of examples that identify a data set about which nothing else is known."""

_TEST_FOLDERS = ("test", "val")


def _check_text(_: object, attribute: "attrs.Attribute[Any]", given: Any) -> None:
    if given is not None and not isinstance(given, str):
        raise InputError(f"data.{attribute.name} is a text; given {given!r}")


def _check_classes(_: object, attribute: "attrs.Attribute[Any]", given: Any) -> None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise InputError(f"data.{attribute.name} is a whole number of at least 1; given {given!r}")


def _check_workers(_: object, attribute: "attrs.Attribute[Any]", given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise InputError(f"data.{attribute.name} is a whole number of at least 0; given {given!r}")


@attrs.frozen(eq=False)
class TorchDataset:
    """A data set that a factory makes; a plugin of :class:`sparsecore.data.images.Dataset` for one backend.

    Attributes:
        name: what selected it.
        factory: makes the map-style data set. It is called once for each part: with ``train=True`` and ``train=False``,
            with ``split=``, or with the folder of the part as ``root``, whichever it has an argument for.
        options: of the factory.
        root: the folder with the files; None for ``--data-dir``.
        train_transforms: of training images; see :func:`sparsecore_torch.experiment.transforms.transform_of`.
        test_transforms: of images that are evaluated.
        train_split: the name of the training part, where parts have names.
        test_split: the name of the test part.
        classes: the number of classes; None where the data set knows it.
        workers: the number of processes that load images.
    """

    name: str
    factory: Callable[..., Any]
    options: Mapping[str, Any]
    root: str | None = attrs.field(default=None, validator=_check_text)
    train_transforms: Any = ()
    test_transforms: Any = ()
    train_split: str = attrs.field(default="train", validator=_check_text)
    test_split: str | None = attrs.field(default=None, validator=_check_text)
    classes: int | None = attrs.field(default=None, validator=_check_classes)
    workers: int = attrs.field(default=0, validator=_check_workers)

    @property
    def selections(self) -> tuple[str, ...]:
        """What else selects code: transforms in files."""
        return (*selections_in(self.train_transforms), *selections_in(self.test_transforms))

    def load(self, folder: Path | None) -> StreamedImages:
        """Open both parts; images are read later, but for the first one.

        Args:
            folder: the folder with the files, ``--data-dir``.

        Raises:
            InputError: the data set cannot be opened, or it is not one of images and labels.
        """
        root = folder if self.root is None else Path(self.root)
        if folder not in (None, root):
            raise InputError(f"data.root and data.dir (--data-dir) are two folders, {root} and {folder}; give one")
        self._check_used(root)
        for_training = transform_of(self.train_transforms, "data.train_transforms")
        for_tests = transform_of(self.test_transforms, "data.test_transforms")
        warn_of_unequal_normalization(self.train_transforms, self.test_transforms)
        train = self._split(self._made(root, is_train=True), for_training)
        of_tests = self._made(root, is_train=False)
        # a data set of one part has no test images but those that are held out
        test = train.at(np.zeros(0, np.int64)) if of_tests is None else self._split(of_tests, for_tests)
        _check_same_classes(self.name, train.source, test.source)
        classes = self._classes(train.source)
        with drawing_by(0):
            channels, height, width = train.example(0)[0].shape
        return StreamedImages(
            train, attrs.evolve(test, transform=for_tests), classes, (height, width, channels), for_tests, self.workers
        )

    def _check_used(self, root: Path | None) -> None:
        """Raise an :class:`InputError` for a folder or names of parts that the factory has no argument for."""
        arguments = _arguments(self.factory)
        if root is not None and "root" not in arguments:
            raise InputError(
                f"the data set {self.name!r} takes no folder: it has no argument 'root', and --data-dir is {root}"
            )
        named = (self.train_split, self.test_split) != ("train", None)
        if named and ("train" in arguments or not {"split", "root"} & arguments.keys()):
            raise InputError(
                f"the parts of the data set {self.name!r} have no names; data.train_split and data.test_split are for "
                "factories with an argument 'split', or folders of parts"
            )

    def _made(self, root: Path | None, *, is_train: bool) -> Any | None:
        """Return the data set of one part; None for the test part of a data set that has only one."""
        arguments = _arguments(self.factory)
        part = self.train_split if is_train else self.test_split
        options = dict(self.options)
        if "train" in arguments:
            options["train"] = is_train
        elif "split" in arguments:
            options["split"] = part or _TEST_FOLDERS[0]
        elif root is not None and "root" in arguments and (root / self.train_split).is_dir():
            root = root / (part or self._test_folder(root))
        elif not is_train:
            return None
        if "root" in arguments:
            if root is None:
                raise InputError(f"the data set {self.name!r} needs --data-dir, the folder with its files")
            options["root"] = str(root)
        try:
            made = called(self.factory, options)
        except InputError:
            raise
        except Exception as error:  # of the data set, whose files may be missing
            hint = "; data.download = true downloads it" if "download" in arguments else ""
            raise InputError(f"the data set {self.name!r} cannot be opened: {error}{hint}") from error
        if not (hasattr(made, "__getitem__") and hasattr(made, "__len__")):
            raise InputError(
                f"the data set {self.name!r} is a {type(made).__name__}; expected a map-style one, with a length and "
                "examples by index"
            )
        if not len(made):
            raise InputError(f"the data set {self.name!r} has no examples" + (f" in {root}" if root else ""))
        return made

    def _test_folder(self, root: Path) -> str:
        there = [name for name in _TEST_FOLDERS if (root / name).is_dir()]
        if len(there) != 1:
            folders = sorted(path.name for path in root.iterdir() if path.is_dir())
            raise InputError(
                f"data.test_split names the folder of the test images in {root}; it has {listed(folders, _SHOWN)}"
            )
        return there[0]

    def _split(self, source: Any, transform: Transform) -> StreamedSplit:
        rows = np.arange(len(source), dtype=np.int64)
        split = StreamedSplit(source, self.name, rows, transform)
        return attrs.evolve(split, fingerprint=_fingerprint(split))

    def _classes(self, source: Any) -> int:
        if self.classes is not None:
            return self.classes
        known = getattr(source, "classes", None)
        if known is not None and hasattr(known, "__len__"):
            return len(known)
        count = getattr(source, "num_classes", None)
        if isinstance(count, int):
            return count
        labels = _labels(source)
        if labels is None:
            raise InputError(f"the data set {self.name!r} does not say how many classes it has; give data.classes")
        return int(labels.max()) + 1


def _arguments(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _check_same_classes(name: str, train: Any, test: Any) -> None:
    """Raise an :class:`InputError` where the two parts give different classes the same labels."""
    parts = [getattr(source, "classes", None) for source in (train, test)]
    if all(isinstance(classes, list | tuple) for classes in parts):
        first, second = (list(map(str, classes or ())) for classes in parts)
        if first != second:
            raise InputError(
                f"the two parts of the data set {name!r} give different classes the same labels; classes of one part "
                f"only: {listed(sorted(set(first) ^ set(second)), _SHOWN) or 'none, but their order differs'}"
            )


def _labels(source: Any) -> NDArray[Any] | None:
    """All labels, where the data set has them as numbers in one of the usual attributes."""
    tensors = getattr(source, "tensors", None)
    known = [getattr(source, name, None) for name in ("targets", "labels", "_labels")]
    for found in [*known, tensors[-1] if isinstance(tensors, tuple) and tensors else None]:
        if found is not None:
            labels = np.asarray(found)
            if labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels) == len(source):
                return labels
    return None


def _fingerprint(split: StreamedSplit) -> bytes:
    """What identifies a data set: its class and labels, and its files, its array of images, or some examples.

    Raises:
        InputError: an example cannot be read.
    """
    source = split.source
    digest = hashlib.sha256(f"{type(source).__qualname__} {len(source)}".encode())
    labels = _labels(source)
    if labels is not None:
        digest.update(labels.astype(np.int64).tobytes())
    files, arrays = getattr(source, "samples", None), _arrays(source)
    if isinstance(files, list) and files and all(isinstance(one, tuple) and isinstance(one[0], str) for one in files):
        for path, *_ in files:
            digest.update(_description(Path(path), getattr(source, "root", "")))
    elif arrays:
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
    else:
        for row in np.linspace(0, len(source) - 1, min(_SAMPLED, len(source))).astype(int).tolist():
            with drawing_by(row):  # the data set itself may draw, as augmentation does
                image, label = split.example(row)
            digest.update(f"{row} {label} {tuple(image.shape)}".encode())
            digest.update(np.ascontiguousarray(image.numpy()).data)
    return digest.digest()


def _description(file: Path, root: Any) -> bytes:
    """A file's path below the root of its data set, and its size in bytes."""
    name = file.relative_to(root) if root and file.is_relative_to(root) else file
    return f"{name.as_posix()} {file.stat().st_size}\n".encode()


def _arrays(source: Any) -> list[NDArray[Any]]:
    """All images, where the data set has them in memory in one of the usual attributes."""
    for name in ("data", "tensors"):
        found = getattr(source, name, None)
        several = found if isinstance(found, tuple) else (found,)
        if all(hasattr(one, "shape") and hasattr(one, "dtype") for one in several):
            arrays = [np.asarray(one) for one in several]
            if all(array.dtype.kind in "uifb" for array in arrays):
                return arrays
    return []
