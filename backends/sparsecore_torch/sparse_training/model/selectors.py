"""Globs on parameter names and classes of modules, by which a user of ``sparsify`` chooses tensors."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sparsecore.errors import InputError, listed
from sparsecore_torch.sparse_training.model.parameters import NamedParameter, named_modules

Selector = str | type[nn.Module]
"""A glob on parameter names, or a class of modules: all parameters of such modules and of the modules in them."""

Selectors = Selector | Sequence[Selector] | None

_SHOWN = 30
"""The number of names that a sentence lists."""


def matching(
    model: nn.Module, argument: str, selector: Selector, parameters: Sequence[NamedParameter]
) -> frozenset[str]:
    """Return the first names of the parameters that a glob or a class of modules matches.

    Args:
        model: without wrappers.
        argument: of ``sparsify``, for the error sentence.
        selector: a glob on parameter names, or a class of modules.
        parameters: of the model, among which it chooses.

    Raises:
        InputError: it is neither, or matches none.
    """
    if isinstance(selector, type):
        names = [name for name, module in named_modules(model) if isinstance(module, selector)]
        found = {one.name for one in parameters if one.is_within(names)}
    elif isinstance(selector, str):
        found = {one.name for one in parameters if _matches(one, selector)}
    else:
        raise InputError(f"{argument} is a glob on parameter names, a class of modules, or several; given {selector!r}")
    if not found:
        raise InputError(_no_match(model, argument, selector, parameters))
    return frozenset(found)


def _no_match(model: nn.Module, argument: str, selector: Any, parameters: Iterable[NamedParameter]) -> str:
    if isinstance(selector, type):
        classes = sorted(
            {type(module).__name__ for module in model.modules() if any(True for _ in module.parameters())}
        )
        return (
            f"{argument}={selector.__name__} matches no module that has parameters; the model's modules are of "
            f"{listed(classes, _SHOWN)}"
        )
    names = [one.name for one in parameters]
    return f"{argument}={selector!r} matches no parameter; the model has {listed(names, _SHOWN)}"


def several(given: Any) -> tuple[Any, ...]:
    """Return the globs and classes that were given: none, one, or several."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | type) else (given,)


def _matches(one: NamedParameter, glob: str) -> bool:
    return any(name == glob or fnmatchcase(name, glob) for name in one.names)
