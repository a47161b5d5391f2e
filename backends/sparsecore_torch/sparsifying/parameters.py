"""The parameters of somebody's model under names of their own, whatever the model is wrapped in."""

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_COMPILED = "_orig_mod"
"""Where a module made by ``torch.compile`` keeps the one that it was made of."""


@attrs.frozen(eq=False)
class NamedParameter:
    """A parameter, once however often it is tied.

    Attributes:
        names: its names in the model, in the order of the modules.
        places: every module that holds it, and the attribute there.
    """

    names: tuple[str, ...]
    places: tuple[tuple[nn.Module, str], ...]

    @property
    def name(self) -> str:
        """The name that it goes by, the first."""
        return self.names[0]

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself, looked up anew: wrappers may have put another object in its place."""
        module, attribute = self.places[0]
        parameter: nn.Parameter = getattr(module, attribute)
        return parameter

    def is_within(self, layers: Iterable[str]) -> bool:
        """Whether it belongs to one of the modules of these names."""
        return any(name.startswith(f"{layer}." if layer else "") for name in self.names for layer in layers)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without what ``torch.compile`` and DistributedDataParallel have put around it."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif _COMPILED in model._modules:
            model = getattr(model, _COMPILED)
        else:
            return model


def within_compiled(module: Any) -> nn.Module:
    """The module that ``torch.compile`` has made this one of; itself where it is none of those."""
    while _COMPILED in module._modules:
        module = module._modules[_COMPILED]
    inner: nn.Module = module
    return inner


def own_parameter(module: nn.Module, name: str) -> Any:
    """The Parameter that a module has itself under this name, or None; of scripted modules, too."""
    return module._parameters[name] if name in module._parameters else None  # noqa: SIM401  they have no get


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by the names that parameters have them by; those used twice under each of their names."""
    for path, module in model.named_modules(remove_duplicate=False):
        yield ".".join(part for part in path.split(".") if part != _COMPILED), module


def named_parameters(model: nn.Module) -> tuple[NamedParameter, ...]:
    """All parameters in the order of the modules, tied ones once with all their names."""
    names: dict[int, list[str]] = {}
    places: dict[int, dict[tuple[int, str], tuple[nn.Module, str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{attribute}" if path else attribute
                names.setdefault(id(parameter), []).append(name.replace(f"{_COMPILED}.", ""))
                places.setdefault(id(parameter), {})[id(module), attribute] = (module, attribute)
    return tuple(NamedParameter(tuple(names[key]), tuple(places[key].values())) for key in names)
