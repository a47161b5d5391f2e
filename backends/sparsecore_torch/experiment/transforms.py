"""Torchvision's transforms by name, with options of a settings file."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from sparsecore.errors import InputError, InputWarning, unknown
from sparsecore.extras import import_optional
from sparsecore.plugins.discovery import load_object
from sparsecore_torch.experiment.module_model import called

Transform = Callable[[Any], Any]
"""From an image, as the data set returns it or as the transform before has left it, to an image."""

_OF_BATCHES = frozenset({"CutMix", "MixUp"})
"""Transforms that mix several images and their labels."""


def transform_of(given: Any, setting: str) -> Transform:
    """Return a transform of single images.

    Args:
        given: 'file.py:factory' or 'package.module:factory', which is called without arguments; or a list of
            transforms, each the name of one of ``torchvision.transforms.v2``, or a table with a name and its options.
        setting: what the transforms are given by, for errors.

    Raises:
        InputError: there is none of this name, or it does not take the options.
    """
    if isinstance(given, str):
        made = called(load_object("dataset", given), {}) if ":" in given else None
        if not callable(made):
            raise InputError(
                f"{setting} is a list of transforms, or 'file.py:factory', which makes one; given {given!r}"
            )
        transform: Transform = made
        return transform
    if not isinstance(given, list | tuple):
        raise InputError(f"{setting} is a list of transforms, each a name or a table with a name; given {given!r}")
    steps = [_step(one, setting) for one in given]
    return _with_conversions(steps) if steps else lambda image: image


def selections_in(given: Any) -> tuple[str, ...]:
    """Return the texts by which transforms are taken from files and packages.

    Args:
        given: as for :func:`transform_of`.
    """
    if isinstance(given, str):
        return (given,)
    names = [one.get("name") if isinstance(one, Mapping) else one for one in given or ()]
    return tuple(name for name in names if isinstance(name, str) and ":" in name)


def warn_of_unequal_normalization(training: Any, tests: Any) -> None:
    """Warn with an :class:`InputWarning` where training images are normalized otherwise than test images.

    Transforms from files and packages may normalize, too; where there are some, nothing is compared.

    Args:
        training: the transforms of training images, as for :func:`transform_of`.
        tests: the transforms of test images.
    """
    if selections_in(training) or selections_in(tests):
        return
    ours, theirs = ([one for one in given if _normalizes(one)] for given in (training, tests))
    if ours != theirs:
        described = [", ".join(map(str, found)) or "no Normalize" for found in (ours, theirs)]
        warnings.warn(
            InputWarning(
                f"data.train_transforms has {described[0]}, and data.test_transforms has {described[1]}, so that the "
                "network is tested on images of another range than it is trained on"
            ),
            stacklevel=2,
        )


def _normalizes(given: Any) -> bool:
    return (given.get("name") if isinstance(given, Mapping) else given) == "Normalize"


def _v2(module: str = "") -> Any:
    return import_optional(f"torchvision.transforms.v2{module}", extra="vision", purpose="a transform by its name")


def _step(given: Any, setting: str) -> tuple[str, Transform]:
    """Return one transform with its name."""
    table = {"name": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise InputError(f"{setting}: a transform is a name, or a table with a name and options; given {given!r}")
    name: str = table["name"]
    options = {key: value for key, value in table.items() if key != "name"}
    if ":" in name:
        return name, called(load_object("dataset", name), options)
    known = _v2()
    names = [
        key for key, value in vars(known).items() if isinstance(value, type) and issubclass(value, known.Transform)
    ]
    if name in _OF_BATCHES:
        raise InputError(f"{setting}: {name} mixes images of a batch and their labels; transforms here take one image")
    if name not in names:
        raise InputError(f"{setting}: {unknown('transform', name, sorted(names))}")
    converted = {key: _OPTIONS[key](value, setting) if key in _OPTIONS else value for key, value in options.items()}
    return name, called(getattr(known, name), converted)


def _dtype(given: Any, setting: str) -> torch.dtype:
    dtype = getattr(torch, str(given), None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"{setting}: there is no dtype {given!r} in torch")
    return dtype


def _policy(given: Any, _: str) -> Any:
    return _v2().AutoAugmentPolicy(given)


def _inner(given: Any, setting: str) -> Sequence[Transform]:
    return [_step(one, setting)[1] for one in given]


_OPTIONS: Mapping[str, Callable[[Any, str], Any]] = MappingProxyType(
    {"dtype": _dtype, "policy": _policy, "transforms": _inner}
)
"""Options whose values are no numbers, texts or lists of such."""


def _with_conversions(steps: Sequence[tuple[str, Transform]]) -> Transform:
    """Return the steps in order, on images as tensors, which are in 0..1 from ``Normalize`` on."""
    functional = _v2(".functional")

    def transformed(image: Any) -> Any:
        image = functional.to_image(image)
        for name, step in steps:
            if name == "Normalize" and not image.is_floating_point():
                image = functional.to_dtype(image, torch.float32, scale=True)
            image = step(image)
        return image

    return transformed
