"""Which tensors are in sparse training now, so that none is made sparse twice.

A tensor is known by the modules that hold it (wrappers may replace parameters, but not modules), as an object (another
model may hold it, too), and by its memory (another parameter may be a view of it). All references are weak: a training
that is no longer referred to frees its tensors.
"""

import gc
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import attrs
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.parameters import NamedParameter, named_parameters, own_parameter
from sparsecore_torch.sparsifying.shared_memory import has_memory, overlapping
from sparsecore_torch.storages.shards import local

_weakly: Callable[[torch.UntypedStorage], Any] = StorageWeakRef
_CLAIMS: WeakKeyDictionary[object, tuple["Claim", ...]] = WeakKeyDictionary()


@attrs.frozen(eq=False)
class Claim:
    """What a tensor that is made sparse is recognised by.

    Attributes:
        name: in the model that was made sparse.
        parameter: as it was then; in compact storage, modules outside of the model may still hold it.
        memory: that of the parameter, which a view of it may keep alive.
        places: the modules that hold it, and the attribute there.
    """

    name: str
    parameter: "ref[Tensor]"
    memory: Callable[[], Tensor | None]
    places: tuple[tuple["ref[nn.Module]", str], ...]

    @classmethod
    def of(cls, one: NamedParameter) -> "Claim":
        """The claim on a parameter, made while its modules still hold it."""
        places = tuple((ref(module), attribute) for module, attribute in one.places)
        return cls(one.name, ref(one.parameter), _memory_of(one.parameter), places)

    def tensors(self) -> list[Tensor]:
        """The parameter as it was, and as it is now."""
        parameter = self.parameter()
        held = [self.memory() if parameter is None else parameter]
        for module, attribute in self.places:
            alive = module()
            held.append(None if alive is None else own_parameter(alive, attribute))
        return list({id(one): one for one in held if one is not None}.values())


def _memory_of(parameter: Tensor) -> Callable[[], Tensor | None]:
    """A function that gives a tensor of the parameter's memory, as long as anything keeps that alive."""
    shard = local(parameter)
    if not has_memory(shard):
        return lambda: None
    storage = _weakly(shard.untyped_storage())
    dtype, device, geometry = shard.dtype, shard.device, (shard.storage_offset(), shard.shape, shard.stride())

    def again() -> Tensor | None:
        alive = torch.UntypedStorage._new_with_weak_ptr(storage.cdata)
        return None if alive is None else torch.empty(0, dtype=dtype, device=device).set_(alive, *geometry)

    return again


def check_not_in_training(model: nn.Module) -> None:
    """Raise an :class:`InputError` if a tensor of the model, or one that shares memory with it, is in sparse training.

    Args:
        model: without wrappers.
    """
    if _in_training(model):
        gc.collect()  # an optimizer with a scheduler, or a training that nobody refers to, may still wait for that
        twice = _in_training(model)
        if twice:
            raise InputError(
                f"{', '.join(sorted(twice))} are in sparse training already; end that one first with squash(), or with "
                "masks delete both the training and its optimizer"
            )


def _in_training(model: nn.Module) -> set[str]:
    """The names of the tensors of the model that are in sparse training."""
    claims = [claim for own in list(_CLAIMS.values()) for claim in own]
    if not claims:
        return set()
    paths = {id(module): path for path, module in model.named_modules()}
    held = {
        (id(alive), attribute)
        for claim in claims
        for module, attribute in claim.places
        if (alive := module()) is not None
    }
    twice = {
        f"{path}.{attribute}" if path else attribute
        for module, attribute in held
        if (path := paths.get(module)) is not None
    }
    return twice | _sharing(named_parameters(model), claims)


def enter(training: object, claims: Sequence[Claim]) -> None:
    """The tensors are in sparse training from now on, until :func:`leave`, or until the training no longer exists."""
    _CLAIMS[training] = tuple(claims)


def leave(training: object) -> None:
    """The tensors of the training are free again."""
    _CLAIMS.pop(training, None)


def _sharing(parameters: Sequence[NamedParameter], claims: Sequence[Claim]) -> set[str]:
    """The parameters that are those of claims, or lie in the same memory."""
    trained = [tensor for claim in claims for tensor in claim.tensors()]
    known = {id(tensor) for tensor in trained}
    found = {one.name for one in parameters if id(one.parameter) in known}
    others = [one for one in parameters if one.name not in found]
    pairs = overlapping([*trained, *(one.parameter for one in others)])
    return found | {others[last - len(trained)].name for first, last in pairs if first < len(trained) <= last}
