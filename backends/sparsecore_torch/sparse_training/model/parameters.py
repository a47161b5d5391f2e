"""The parameters of a user's model by name, whatever the model is wrapped in."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import attrs
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.modules import COMPILED_MODULE, names_ignored_by_ddp, own_modules, own_parameters
from sparsecore_torch.tensors import overlapping


def replicated(model: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """Return the trained parameters that must be equal on all ranks.

    Buffers may differ, as batch norm's statistics do. Also left out are parameters that belong to one rank by design:
    shards of ``fully_shard``, and those that DistributedDataParallel is set to ignore.

    Args:
        model: without wrappers.
        optimizers: that train the parameters.

    Returns:
        The parameters by a description such as "the values of 'conv1.weight'".
    """
    trained = {id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]}
    ignored = names_ignored_by_ddp(model)
    return {
        f"the values of {name!r}": parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in trained and name not in ignored and type(parameter.data) is Tensor
    }


@attrs.frozen(eq=False)
class NamedParameter:
    """A parameter with all its names, of which a tied one has several.

    Attributes:
        names: its names in the model, in the order of the modules.
        holders: every module that holds it, and the attribute there.
    """

    names: tuple[str, ...]
    holders: tuple[tuple[nn.Module, str], ...]

    @property
    def name(self) -> str:
        """The first of its names, which stands for all."""
        return self.names[0]

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself, looked up each time: wrappers may have put another object in its place."""
        module, attribute = self.holders[0]
        parameter: nn.Parameter = getattr(module, attribute)
        return parameter

    def is_within(self, layers: Iterable[str]) -> bool:
        """Return whether the parameter belongs to one of these modules.

        Args:
            layers: names of modules, '' for the whole model; each of a tied parameter's names counts.
        """
        return any(name.startswith(f"{layer}." if layer else "") for name in self.names for layer in layers)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of ``torch.compile``, DataParallel, DistributedDataParallel and Fabric.

    Args:
        model: wrapped any number of times, in any order, or not at all.
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif COMPILED_MODULE in own_modules(model):
            model = getattr(model, COMPILED_MODULE)
        elif _OF_FABRIC.issubset(own_modules(model).keys()):  # a scripted module has its names in a list
            model = cast(nn.Module, own_modules(model)["_original_module"])
        else:
            return model


_OF_FABRIC = {"_forward_module", "_original_module"}
"""The children of the module that Lightning's ``Fabric.setup`` returns: the model with and without its wrappers."""


def within_compiled(module: Any) -> nn.Module:
    """Return the module inside those of ``torch.compile``.

    Args:
        module: compiled any number of times, or not; other wrappers are left on.
    """
    while COMPILED_MODULE in own_modules(module):
        module = own_modules(module)[COMPILED_MODULE]
    inner: nn.Module = module
    return inner


def own_parameter(module: nn.Module, name: str) -> Any:
    """Return a Parameter of a module itself, not of its children.

    Args:
        module: the module, which may be a scripted one.
        name: of the Parameter.

    Returns:
        The Parameter; None if there is none of this name.
    """
    own = own_parameters(module)
    return own[name] if name in own else None  # noqa: SIM401  they have no get


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over all modules, with names as in names of parameters.

    Args:
        model: the model, whose modules may be compiled.

    Yields:
        Name and module, a module that is used twice under both names. ``_orig_mod`` is left out of names.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        yield ".".join(part for part in path.split(".") if part != COMPILED_MODULE), module


def named_parameters(model: nn.Module) -> tuple[NamedParameter, ...]:
    """Return all parameters of a model.

    Args:
        model: without wrappers.

    Returns:
        The parameters in the order of the modules, tied ones once with all their names.
    """
    names: dict[int, list[str]] = {}
    holders: dict[int, dict[tuple[int, str], tuple[nn.Module, str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in own_parameters(module).items():
            if parameter is not None:
                name = f"{path}.{attribute}" if path else attribute
                names.setdefault(id(parameter), []).append(name.replace(f"{COMPILED_MODULE}.", ""))
                holders.setdefault(id(parameter), {})[id(module), attribute] = (module, attribute)
    return tuple(NamedParameter(tuple(names[key]), tuple(holders[key].values())) for key in names)


def check_memory(
    sparse: Sequence[NamedParameter], others: Sequence[NamedParameter], optimizers: Iterable[Optimizer]
) -> None:
    """Check that no sparse tensor shares memory with another parameter.

    Args:
        sparse: the tensors that are to be sparse.
        others: all parameters of the model.
        optimizers: the parameters that they train are compared, too; they may belong to no module.

    Raises:
        InputError: two parameters share entries.
    """
    known = {id(one.parameter): one.name for one in others}
    trained = [one for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]]
    tensors = list({id(one): one for one in [*(one.parameter for one in others), *trained]}.values())
    names = [known.get(id(one), "a parameter of the optimizer that the model does not have") for one in tensors]
    chosen = {id(one.parameter) for one in sparse}
    for first, last in overlapping(tensors):
        if id(tensors[first]) in chosen or id(tensors[last]) in chosen:
            raise InputError(
                f"{names[first]} and {names[last]} are views of the same memory, and what one loses the other would "
                "lose; make them one Parameter, which both modules hold, or leave both dense with exclude="
            )
