"""Identification of a study's images: the published ones, a JPEG copy of them, or others."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Dataset, Images
from sparsecore.errors import InputError, printable
from sparsecore.experiment.experiment import split_data
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.run.files import write_whole
from sparsecore.study.folder import StudyFolder


@attrs.frozen
class ChannelStatistics:
    """Statistics by which published images are recognized.

    Attributes:
        examples: the number of training images.
        mean: the mean of each channel over them, in units of 0..255.
        std: the standard deviation of each channel, likewise.
    """

    examples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def match(self, images: Images) -> bool:
        """Whether the training images have these statistics.

        Args:
            images: the data set; its test images are not looked at.

        Returns:
            True only if their number is the same and each mean and deviation agrees to a relative 1e-11, which a single
            changed pixel exceeds.
        """
        return len(images.train) == self.examples and all(
            len(published) == len(found) and np.allclose(published, found, rtol=1e-11, atol=0)
            for published, found in ((self.mean, images.mean), (self.std, images.std))
        )


PUBLISHED: Mapping[str, ChannelStatistics] = MappingProxyType(
    {
        "cifar10": ChannelStatistics(
            50_000,
            (125.306918046875, 122.950394140625, 113.86538318359375),
            (62.993219278136884, 62.08870764001421, 66.70489964063091),
        ),
        "mnist": ChannelStatistics(60_000, (33.318421449829934,), (78.56748998339798,)),
    }
)
"""Statistics of published data sets, as widely quoted."""


Floats = NDArray[np.float64]

# ITU-T T.81, table K.1, rows and columns 0 to 3: quantization steps of luminance coefficients at quality 50
_STEPS = np.array([[16, 11, 10, 16], [12, 12, 14, 19], [14, 13, 16, 24], [14, 17, 22, 29]])
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_QUALITIES = range(50, 91, 5)  # steps of higher qualities drown in the rounding of pixels
_MIN_COEFFICIENTS = 500  # that are not rounded to zero
_MAX_DISTANCE = 0.15  # mean distance from multiples of the steps, in steps; 0.25 without quantization


def jpeg_quality(images: NDArray[np.uint8]) -> int | None:
    """Detect the quality of the JPEG files that images were decoded from, from the quantization of their coefficients.

    Args:
        images: uint8 of shape (examples, height, width, channels). Several hundred of 32×32 pixels are enough.

    Returns:
        The quality (50, 55, ... 90). None if there is no sign of quantization, or the images do not have three channels
        and sides that are multiples of 8.
    """
    height, width, channels = images.shape[1:]
    if channels != 3 or height % 8 or width % 8:
        return None
    coefficients = _coefficients(images @ _LUMINANCE - 128)
    found = [(distance, quality) for quality, distance in _distances(coefficients) if distance < _MAX_DISTANCE]
    return min(found)[1] if found else None


def _distances(coefficients: Floats) -> Iterator[tuple[int, float]]:
    """Yield each quality with the mean distance of the coefficients from multiples of its steps, in steps."""
    for quality in _QUALITIES:
        steps = np.floor((_STEPS * (200 - 2 * quality) + 50) / 100)
        counts = (coefficients / steps).reshape(-1, 16)[
            :, 1:
        ]  # without the block's mean, which is quantized too coarsely
        counts = counts[np.abs(counts) > 0.5]
        if len(counts) >= _MIN_COEFFICIENTS:
            yield quality, float(np.abs(counts - np.round(counts)).mean())


def _coefficients(luminance: Floats) -> Floats:
    """Compute the lowest 4×4 frequencies of the cosine transform of 8×8 blocks; shape (blocks, 4, 4)."""
    examples, height, width = luminance.shape
    blocks = luminance.reshape(examples, height // 8, 8, width // 8, 8)
    frequency, pixel = np.arange(4)[:, None], np.arange(8)
    waves = np.cos((2 * pixel + 1) * frequency * np.pi / 16) * np.where(frequency == 0, np.sqrt(1 / 8), 0.5)
    frequencies: Floats = np.einsum("ui,nriqj,vj->nrquv", waves, blocks, waves, optimize=True)
    return frequencies.reshape(-1, 4, 4)


_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "mnist": "MNIST",
        "fashion-mnist": "Fashion-MNIST",
        "digits": "the digits of scikit-learn",
        "help-topics": "Python's help topics",
    }
)
_ENOUGH_IMAGES = 500


@attrs.frozen
class StudyImages:
    """The images of a study.

    Attributes:
        title: name of the images in figures and tables.
        published: whether they are known to be the images published under the data set's name.
    """

    title: str
    published: bool = False


def identify_images(folder: StudyFolder, data: Mapping[str, Any], title: str = "") -> StudyImages:
    """Identify the images of a study, and record the result in the study's folder.

    Args:
        folder: folder of the study.
        data: table of the data set in its experiments.
        title: name of the images from now on; if empty, the recorded name or the one that is found.

    Returns:
        The recorded images, or those that are found.

    Raises:
        InputError: the record is damaged.
    """
    recorded = _recorded(folder.images)
    known = recorded or _identified(data)
    if known is None:
        return StudyImages(printable(title or f"{_title(data)} (images not found)"))
    images = attrs.evolve(known, title=printable(title or known.title))
    if images != recorded:
        write_whole(folder.images, json.dumps(attrs.asdict(images)).encode() + b"\n")
    return images


def describe_subset(data: Mapping[str, Any]) -> str:
    """Describe the part of the images that an experiment uses.

    Args:
        data: its table ``data``, of which ``limit`` and ``held_out`` matter.

    Returns:
        For example '1,000 training images'; empty if it uses all.
    """
    texts = {"limit": "{:,} training images", "held_out": "{:,} held-out training images for a test"}
    return ", ".join(text.format(data[key]) for key, text in texts.items() if data.get(key))


def _identified(data: Mapping[str, Any]) -> StudyImages | None:
    """Identify the images; None if they cannot be loaded."""
    if data["name"] not in PUBLISHED:
        return StudyImages(_title(data))
    if data.get("dir") is None:
        return StudyImages(_title(data), published=True)  # downloaded, and compared with the published checksum
    _, source = split_data(data)
    dataset: Dataset = PluginChoice.of("dataset", source).plugin
    try:
        images = dataset.load(Path(data["dir"]))
    except InputError:
        return None
    if PUBLISHED[data["name"]].match(images):
        return StudyImages(_title(data), published=True)
    return StudyImages(f"{_title(data)} ({_kind_of_copy(images)})")


def _kind_of_copy(images: Images) -> str:
    return "JPEG copy" if jpeg_quality(images.test.images[:_ENOUGH_IMAGES]) else "not the published images"


def _title(data: Mapping[str, Any]) -> str:
    name = str(data["name"]).rpartition(":")[2]
    file = data.get("file")
    # a data set from a file is not the published one, even if it has its name
    return _TITLES.get(str(data["name"]), name) if file is None else f"{name} ({Path(file).name})"


def _recorded(path: Path) -> StudyImages | None:
    try:
        return StudyImages(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
