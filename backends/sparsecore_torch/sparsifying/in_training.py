"""Which tensors are in sparse training now, so that nobody makes them sparse twice."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.parameters import NamedParameter

_ATTRIBUTES: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
"""By module, whatever it is wrapped in; wrappers may replace parameters, not modules."""


def check_not_in_training(model: nn.Module) -> None:
    """Raise an :class:`InputError` if a tensor of the model is in sparse training."""
    twice = [
        f"{path}.{attribute}" if path else attribute
        for path, module in model.named_modules()
        for attribute in sorted(_ATTRIBUTES.get(module, ()))
    ]
    if twice:
        raise InputError(f"{', '.join(twice)} are in sparse training already; end that one first with squash()")


def enter(tensors: Iterable[NamedParameter]) -> None:
    """These are in sparse training from now on."""
    for one in tensors:
        for module, attribute in one.places:
            _ATTRIBUTES.setdefault(module, set()).add(attribute)


def leave(tensors: Iterable[NamedParameter]) -> None:
    """These are no longer."""
    for one in tensors:
        for module, attribute in one.places:
            _ATTRIBUTES.get(module, set()).discard(attribute)
