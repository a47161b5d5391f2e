"""Which images a study was trained on, in words that tell a copy from the original."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.data.dataset import Dataset
from sparsecore.data.images import Images
from sparsecore.data.jpeg import jpeg_quality
from sparsecore.data.published import PUBLISHED
from sparsecore.errors import InputError
from sparsecore.experiment.chosen import Chosen
from sparsecore.experiment.experiment import split_data
from sparsecore.run.files import write_whole
from sparsecore.study.folder import StudyFolder
from sparsecore.words import printable

_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "cifar10": "CIFAR-10",
        "cifar100": "CIFAR-100",
        "mnist": "MNIST",
        "fashion-mnist": "Fashion-MNIST",
        "digits": "the digits of scikit-learn",
    }
)
_ENOUGH_IMAGES = 500


@attrs.frozen
class Seen:
    """The images of a study.

    Attributes:
        title: what figures and tables call them.
        published: whether they are known to be those published under the data set's name.
    """

    title: str
    published: bool = False


def seen(folder: StudyFolder, data: Mapping[str, Any], title: str = "") -> Seen:
    """Look at the images of a study, once: what was found, or said, is kept in the study's folder.

    Args:
        folder: the study's.
        data: the table of its experiments.
        title: what the user calls the images from now on; what was found or said before, if it is empty.
    """
    kept = _kept(folder.images)
    known = kept or _looked_at(data)
    if known is None:
        return Seen(printable(title or f"{_title(data)} (images not at hand)"))
    told = attrs.evolve(known, title=printable(title or known.title))
    if told != kept:
        write_whole(folder.images, json.dumps(attrs.asdict(told)).encode() + b"\n")
    return told


def restrictions(data: Mapping[str, Any]) -> str:
    """In which respects not all of the images are used, of an experiment's ``[data]``; empty where they are."""
    said = {"limit": "{:,} training images", "held_out": "{:,} held-out training images for a test"}
    return ", ".join(text.format(data[key]) for key, text in said.items() if data.get(key))


def _looked_at(data: Mapping[str, Any]) -> Seen | None:
    """What the images are; None where they cannot be had any more."""
    if data["name"] not in PUBLISHED:
        return Seen(_title(data))
    if data.get("dir") is None:
        return Seen(_title(data), published=True)  # downloaded, and compared with the published checksum
    _, source = split_data(data)
    dataset: Dataset = Chosen.of("dataset", source).plugin
    try:
        images = dataset.load(Path(data["dir"]))
    except InputError:
        return None
    if PUBLISHED[data["name"]].match(images):
        return Seen(_title(data), published=True)
    return Seen(f"{_title(data)} ({_kind_of_copy(images)})")


def _kind_of_copy(images: Images) -> str:
    return "JPEG copy" if jpeg_quality(images.test.images[:_ENOUGH_IMAGES]) else "not the published images"


def _title(data: Mapping[str, Any]) -> str:
    name = str(data["name"]).rpartition(":")[2]
    file = data.get("file")
    # a data set of one's own may have the name of a published one, and is not called as that is
    return _TITLES.get(str(data["name"]), name) if file is None else f"{name} ({Path(file).name})"


def _kept(path: Path) -> Seen | None:
    try:
        return Seen(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
