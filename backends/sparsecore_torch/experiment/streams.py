"""Images that are read and transformed one by one when they are needed, by worker processes if there are any."""

import multiprocessing
import operator
import reprlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsecore.data.images import Batch, Split
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.keyed_draws import drawing_by
from sparsecore_torch.experiment.transforms import Transform

_EVALUATED = 64
"""The number of images that are evaluated at a time."""


@attrs.frozen(eq=False)
class StreamedSplit:
    """Examples of a map-style data set of PyTorch; takes the place of :class:`sparsecore.data.images.Split`.

    Attributes:
        source: returns an image and its label by index.
        name: of the data set, for errors.
        rows: the indices of the examples, int64, (examples,).
        transform: of each image.
        fingerprint: identifies the source.
    """

    source: Any
    name: str
    rows: NDArray[np.int64]
    transform: Transform
    fingerprint: bytes = b""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, rows: NDArray[np.integer]) -> "StreamedSplit":
        """Return some of the examples; nothing is read.

        Args:
            rows: their indices in this split.
        """
        return attrs.evolve(self, rows=self.rows[rows])

    def identify(self, update: Callable[[Any], object]) -> None:
        """Feed what identifies the examples into a digest.

        Args:
            update: the digest's method, which takes bytes.
        """
        update(self.fingerprint)
        update(np.ascontiguousarray(self.rows).data)

    def example(self, row: int) -> tuple[Tensor, int]:
        """Read and transform an example.

        Args:
            row: its index in this split.

        Returns:
            The image, float32, (channels, height, width), of uint8 images in 0..1, and the label.

        Raises:
            InputError: the data set has no such example of an image and a label.
        """
        index = int(self.rows[row])
        try:
            image, label = _pair(self.source[index])
            _check_mode(image)
            return _as_tensor(self.transform(image)), _as_label(label)
        except InputError:
            raise
        except Exception as error:  # of the data set or a transform
            raise InputError(
                f"example {index} of {self.name} cannot be read as an image and a label, and transformed: "
                f"{type(error).__name__}: {error}"
            ) from error


@attrs.frozen(eq=False)
class StreamedImages:
    """A data set whose images are not in memory; takes the place of :class:`sparsecore.data.images.Images`.

    Attributes:
        train: the training images.
        test: the test images; none where the data set has only one part.
        classes: the number of classes.
        shape: height, width and channels of the transformed training images.
        test_transform: of images that are evaluated.
        workers: the number of processes that load images; 0 for none but this one.
    """

    train: StreamedSplit
    test: StreamedSplit
    classes: int
    shape: tuple[int, int, int]
    test_transform: Transform
    workers: int

    def tested(self, split: StreamedSplit) -> StreamedSplit:
        """Return training images as they are evaluated: with the transform of test images.

        Args:
            split: some of the training images.
        """
        return attrs.evolve(split, transform=self.test_transform)

    def check_augmentation(self, padding: int, flip: bool) -> None:
        """Refuse the augmentation of images in memory.

        Args:
            padding: pixels of a random crop.
            flip: whether images are mirrored.

        Raises:
            InputError: one of them is requested.
        """
        if padding or flip:
            raise InputError(
                "data.crop and data.flip are for images in memory; the data set "
                f"{self.train.name} is augmented by data.train_transforms, such as RandomCrop and RandomHorizontalFlip"
            )


_MODES = frozenset({"L", "RGB", "RGBA"})
"""Modes of PIL images whose pixels are channels of 0..255."""


def _pair(sample: Any) -> tuple[Any, Any]:
    """Return the image and the label of a sample; raise a :class:`TypeError` for a dict and the like."""
    # a dict of two keys would unpack, too: into its keys
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        keys = f" with the keys {', '.join(map(repr, sample))}" if isinstance(sample, Mapping) else ""
        count = f" of {len(sample)}" if isinstance(sample, tuple | list) else ""
        raise TypeError(f"expected a pair (image, label), given a {type(sample).__name__}{count}{keys}")
    return sample[0], sample[1]


def _as_label(label: Any) -> int:
    try:
        return operator.index(label)
    except TypeError as error:
        raise TypeError(f"expected a whole number as label, given {reprlib.repr(label)}") from error


def _check_mode(image: Any) -> None:
    """Raise an :class:`InputError` for a PIL image whose pixels are no channels of 0..255, such as palette indices."""
    mode = getattr(image, "mode", None)
    if isinstance(mode, str) and mode not in _MODES:
        raise InputError(
            f"an image of the data set has the mode {mode!r} of PIL; expected one of {', '.join(sorted(_MODES))}, to "
            "which convert() brings it"
        )


def _as_tensor(image: Any) -> Tensor:
    """Return an image as a float32 tensor, (channels, height, width), of uint8 ones in 0..1."""
    if isinstance(image, Tensor):
        tensor = image.as_subclass(Tensor)
    else:
        array = np.asarray(image)
        if array.ndim == 2:
            array = array[:, :, None]
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
    if tensor.ndim != 3:
        raise InputError(f"an image is (channels, height, width); one has the shape {tuple(tensor.shape)}")
    if tensor.dtype is torch.uint8:
        return tensor.float().div_(255)
    return tensor.float()


Example = tuple[int, int]
"""An example's index in its split, and the seed of what is drawn for it."""


@attrs.frozen(eq=False)
class _Failure:
    """What went wrong in a worker process, where an error would come with its traceback."""

    sentence: str


class _Examples(Dataset[Any]):
    """Whole batches of a split, for a ``DataLoader``."""

    def __init__(self, split: StreamedSplit, classes: int) -> None:
        self._split, self._classes = split, classes

    def __getitems__(self, examples: Sequence[Example]) -> Any:
        try:
            return self._batch(examples)
        except InputError as error:
            return _Failure(str(error))

    def _batch(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        images: list[Tensor] = []
        labels: list[int] = []
        for row, seed in examples:
            with drawing_by(seed):
                image, label = self._split.example(row)
            if not 0 <= label < self._classes:
                raise InputError(
                    f"example {self._split.rows[row]} of {self._split.name} has the label {label}; there are "
                    f"{self._classes} classes, from 0 on"
                )
            if images and image.shape != images[0].shape:
                raise InputError(
                    f"images of {self._split.name} have different shapes, {tuple(images[0].shape)} and "
                    f"{tuple(image.shape)} (channels, height, width); transforms such as Resize and CenterCrop make "
                    "them alike"
                )
            images.append(image)
            labels.append(label)
        stacked = torch.stack(images) if images else torch.zeros(0, 1, 1, 1)
        return stacked, torch.tensor(labels, dtype=torch.int64)


def _as_it_is(batch: Any) -> Any:
    return batch


class StreamedInputs:
    """Gives a learner the images of a data set that is not in memory.

    Each image is transformed with random numbers that depend on the seed, the epoch and its place in the order, so that
    neither the number of workers nor an interruption changes it.

    Args:
        images: the data set.
        config: the device, and the dtype and memory format of images for the network.
    """

    def __init__(self, images: StreamedImages, config: DeviceConfig) -> None:
        self._images, self._config = images, config
        self._loaded: tuple[Batch, tuple[Tensor, Tensor]] | None = None

    def upcoming(self, plan: Iterator[Batch]) -> Iterator[Batch]:
        """Return the batches of a plan; this rank's parts are loaded ahead by the workers.

        Args:
            plan: an epoch's batches.
        """
        waiting: deque[Batch] = deque()

        def parts() -> Iterator[Sequence[Example]]:
            for batch in plan:
                waiting.append(batch)
                yield _examples(self._config.parallel.part(batch))

        for loaded in self._load(self._images.train, parts()):
            batch = waiting.popleft()
            self._loaded = (self._config.parallel.part(batch), loaded)
            yield batch

    def of_plan(self, plan: Batch) -> tuple[Tensor, Tensor]:
        """Return the training images of a batch and their labels.

        Args:
            plan: which images; if it is not the latest of :meth:`upcoming`, they are loaded now.

        Returns:
            Images, (batch, channels, height, width), in the dtype and memory format of the config, and labels, int64,
            (batch,).
        """
        latest = self._loaded
        if latest is None or latest[0].random != plan.random or not np.array_equal(latest[0].rows, plan.rows):
            return self._on_device(next(self._load(self._images.train, iter([_examples(plan)]), workers=0)))
        return self._on_device(latest[1])

    def of_split(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over this rank's share of a split in batches.

        Args:
            split: a :class:`StreamedSplit`.

        Yields:
            Images, (batch, channels, height, width), and labels, int64, (batch,).
        """
        chunks = np.array_split(np.arange(len(split)), range(_EVALUATED, len(split), _EVALUATED))
        seeds = (Randomness(0).uniform_at(np.arange(len(split)), "test") * 2**53).astype(np.int64)
        examples = ([(int(row), int(seeds[row])) for row in rows] for rows in self._config.parallel.some(chunks))
        streamed: Any = split
        for loaded in self._load(streamed, examples):
            yield self._on_device(loaded)

    def _load(
        self, split: StreamedSplit, batches: Iterator[Sequence[Example]], workers: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        workers = self._images.workers if workers is None else workers
        # what a file has cannot be imported by its name in another interpreter, as a worker that is not forked is
        forks = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
        loader = DataLoader(
            _Examples(split, self._images.classes),
            batch_sampler=_Sampler(batches),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=self._config.device.type == "cuda",
            multiprocessing_context="fork" if forks else None,
        )
        for loaded in loader:
            if isinstance(loaded, _Failure):
                raise InputError(loaded.sentence)
            yield loaded[0], loaded[1]

    def _on_device(self, loaded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        config, (images, labels) = self._config, loaded
        moved = images.to(config.device, config.dtype, non_blocking=True)
        return moved.contiguous(memory_format=config.memory_format), labels.to(config.device, non_blocking=True)


class _Sampler:
    """Batches of examples, as a ``DataLoader`` asks for them: once, in order."""

    def __init__(self, batches: Iterator[Sequence[Example]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self._batches


def _examples(part: Batch) -> Sequence[Example]:
    places = np.arange(part.first, part.first + len(part))
    seeds = (part.random.uniform_at(places, "transforms") * 2**53).astype(np.int64)
    return list(zip(part.rows.tolist(), seeds.tolist(), strict=True))
