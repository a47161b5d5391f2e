"""Models and data sets of PyTorch, which are no plugins of sparsecore: of libraries, or what a factory makes."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
from torch import nn

from sparsecore.errors import InputError, listed, unknown
from sparsecore.extras import import_optional
from sparsecore.plugins.discovery import load_object
from sparsecore_torch.experiment.module_model import ModuleModel, Shape, called, factory_with_classes
from sparsecore_torch.experiment.torch_datasets import TorchDataset

Make = Callable[[Mapping[str, Any], Shape, int], Any]

_SHOWN = 12
"""The number of models that an error sentence names."""


def foreign(kind: str, name: str, options: Mapping[str, Any]) -> Any | None:
    """Return the plugin that wraps an object of PyTorch.

    Args:
        kind: 'model' or 'dataset'; the other kinds have no such objects.
        name: 'torchvision:NAME', 'timm:NAME', 'package.module:Object' or 'file.py:Object'; or an installed name.
        options: of the object.

    Returns:
        A plugin; None where the name selects a plugin of sparsecore.

    Raises:
        InputError: there is no such object, or it does not take the options.
    """
    return _KINDS[kind](name, options) if kind in _KINDS and ":" in name else None


def _model(name: str, options: Mapping[str, Any]) -> ModuleModel | None:
    library, _, own_name = name.partition(":")
    if library in _LIBRARIES:
        make = _LIBRARIES[library](own_name)
        _refuse_pretrained(name, options)
    else:
        chosen = load_object("model", name)
        if isinstance(chosen, nn.Module):
            raise InputError(
                f"{name!r} is a module that exists already; give the class or a function that makes it, so that every "
                "run begins with values of its own"
            )
        if not _is_factory(chosen):
            return None
        make = factory_with_classes(chosen)
    chosen_tensors = {key: _globs(key, options[key]) for key in ("include", "exclude") if key in options}
    others = {key: value for key, value in options.items() if key not in chosen_tensors}
    return ModuleModel(name, make, MappingProxyType(others), **chosen_tensors)


def _is_factory(chosen: Any) -> bool:
    """Return whether an object makes modules, and is no model of sparsecore."""
    if isinstance(chosen, type) and issubclass(chosen, nn.Module):
        return True
    return callable(chosen) and not (hasattr(chosen, "parameters") and hasattr(chosen, "forward"))


def _globs(key: str, given: Any) -> tuple[str, ...]:
    globs = (given,) if isinstance(given, str) else given
    if not isinstance(globs, list | tuple) or not all(isinstance(glob, str) for glob in globs):
        raise InputError(f"model.{key} is a glob on names of parameters, or a list of them; given {given!r}")
    return tuple(globs)


_PRETRAINED = ("pretrained", "weights", "weights_backbone")
"""Options of libraries by which they download weights."""


def _refuse_pretrained(name: str, options: Mapping[str, Any]) -> None:
    given = [key for key in _PRETRAINED if options.get(key)]
    if given:
        raise InputError(
            f"model.{given[0]}: an experiment downloads no weights; save the state dict of the pretrained {name} by "
            "safetensors.torch.save_file, and give the file as start.weights"
        )


def _of_torchvision(name: str) -> Make:
    models = import_optional("torchvision.models", extra="vision", purpose=f"the model 'torchvision:{name}'")
    _check_known("torchvision", name, models.list_models())
    return factory_with_classes(_named(name, lambda **options: models.get_model(name, **options)))


def _of_timm(name: str) -> Make:
    timm = import_optional("timm", extra="vision", purpose=f"the model 'timm:{name}'")
    if not timm.is_model(name):
        _check_known("timm", name, timm.list_models())
    create = _named(name, lambda **options: timm.create_model(name, **options))

    def make(options: Mapping[str, Any], image_shape: Shape, classes: int) -> Any:
        return called(create, {"num_classes": classes, "in_chans": image_shape[2], **options})

    return make


def _named(name: str, create: Callable[..., Any]) -> Callable[..., Any]:
    def factory(num_classes: int, **options: Any) -> Any:
        return create(num_classes=num_classes, **options)

    factory.__name__ = name
    return factory


def _check_known(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=_SHOWN) or sorted(known)
        raise InputError(f"{library} has no model named {name!r}; it has {listed(close, _SHOWN)}")


_LIBRARIES: Mapping[str, Callable[[str], Make]] = MappingProxyType({"torchvision": _of_torchvision, "timm": _of_timm})
"""Makers of models by name, by the library that has them."""

_OWN_OPTIONS = frozenset(field.name for field in attrs.fields(TorchDataset)) - {"name", "factory", "options"}
"""Settings of a data set that are not passed on to its factory."""


def _dataset(name: str, options: Mapping[str, Any]) -> TorchDataset | None:
    library, _, own_name = name.partition(":")
    factory = _torchvision_dataset(own_name) if library == "torchvision" else load_object("dataset", name)
    if hasattr(factory, "load"):  # a data set of sparsecore
        return None
    if not callable(factory):
        raise InputError(
            f"{name!r} is a {type(factory).__name__}; give the class of a map-style data set, or a function that "
            "returns one"
        )
    own = {key: value for key, value in options.items() if key in _OWN_OPTIONS}
    others = {key: value for key, value in options.items() if key not in _OWN_OPTIONS}
    return TorchDataset(name, factory, MappingProxyType(others), **own)


def _torchvision_dataset(name: str) -> Any:
    datasets = import_optional("torchvision.datasets", extra="vision", purpose=f"the data set 'torchvision:{name}'")
    known = [key for key, value in vars(datasets).items() if isinstance(value, type)]
    if name not in known:
        raise InputError(unknown("data set", name, sorted(known), "torchvision has"))
    return getattr(datasets, name)


_KINDS: Mapping[str, Callable[[str, Mapping[str, Any]], Any | None]] = MappingProxyType(
    {"model": _model, "dataset": _dataset}
)
