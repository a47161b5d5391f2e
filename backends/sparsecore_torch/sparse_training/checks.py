"""Checks of a user's model and paths: what sparsify refuses or warns of, and layers that are frozen later."""

import gc
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import Any, final
from weakref import WeakKeyDictionary, ref

import attrs
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import UninitializedParameter

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, listed
from sparsecore.sparse_training.lost_weights import MANY_ZEROS, warn_of_loss
from sparsecore_torch._torch_internals.modules import COMPILED_MODULE, is_set_as_training_flag, own_parameters
from sparsecore_torch._torch_internals.tensors import storage_of_weak_reference
from sparsecore_torch.arrays import gather_active
from sparsecore_torch.sparse_training.model.parameters import (
    NamedParameter,
    named_parameters,
    own_parameter,
    unwrapped,
)
from sparsecore_torch.sparse_training.storage.compact_modules import compact_attributes, weights_of
from sparsecore_torch.sparse_training.storage.compact_weights import VALUES
from sparsecore_torch.tensors import full_tensor, has_memory, is_sharded, local_shard, overlapping

_weakly: Callable[[torch.UntypedStorage], Any] = StorageWeakRef
_CLAIMS: WeakKeyDictionary[object, tuple["Claim", ...]] = WeakKeyDictionary()


@attrs.frozen(eq=False)
class Claim:
    """By what a tensor in sparse training is recognised in other models.

    Attributes:
        name: in the model that was made sparse.
        parameter: the parameter then; in compact storage, modules outside of the model may still hold it.
        memory: returns a tensor on the parameter's memory, which a view may keep alive.
        holders: the modules that hold it, and the attribute there.
    """

    name: str
    parameter: "ref[Tensor]"
    memory: Callable[[], Tensor | None]
    holders: tuple[tuple["ref[nn.Module]", str], ...]

    @classmethod
    def of(cls, one: NamedParameter) -> "Claim":
        """Claim a parameter while its modules still hold it.

        Args:
            one: the parameter; the claim keeps neither it nor its modules alive.
        """
        holders = tuple((ref(module), attribute) for module, attribute in one.holders)
        return cls(one.name, ref(one.parameter), _memory_of(one.parameter), holders)

    def tensors(self) -> list[Tensor]:
        """Return the parameter as it was and as it is now, as far as they exist."""
        parameter = self.parameter()
        held = [self.memory() if parameter is None else parameter]
        for module, attribute in self.holders:
            alive = module()
            held.append(None if alive is None else own_parameter(alive, attribute))
        return list({id(one): one for one in held if one is not None}.values())


def _memory_of(parameter: Tensor) -> Callable[[], Tensor | None]:
    """Return a function that returns a tensor on the parameter's memory, and None once that has been freed."""
    shard = local_shard(parameter)
    if not has_memory(shard):
        return lambda: None
    storage = _weakly(shard.untyped_storage())
    dtype, device, geometry = shard.dtype, shard.device, (shard.storage_offset(), shard.shape, shard.stride())

    def on_memory() -> Tensor | None:
        alive = storage_of_weak_reference(storage.cdata)
        return None if alive is None else torch.empty(0, dtype=dtype, device=device).set_(alive, *geometry)

    return on_memory


def check_not_in_training(model: nn.Module, tensors: Sequence[NamedParameter] | None = None) -> None:
    """Check that no tensor that is to become sparse, nor one that shares memory with it, is in sparse training.

    Args:
        model: without wrappers.
        tensors: those that are to become sparse; None forbids any tensor of the model to be in sparse training.

    Raises:
        InputError: one is.
    """
    names = None if tensors is None else {name for one in tensors for name in one.names}
    if _in_training(model, names):
        gc.collect()  # a deleted training may be part of a reference cycle, as an optimizer with a scheduler is
        twice = _in_training(model, names)
        if twice:
            raise InputError(
                f"{', '.join(sorted(twice))} are in sparse training already; end that one first with squash(), or with "
                "masks delete both the training and its optimizer"
            )


def _in_training(model: nn.Module, names: set[str] | None) -> set[str]:
    """Return the names of the tensors of the model that are in sparse training, among these names or all."""
    claims = [claim for own in list(_CLAIMS.values()) for claim in own]
    if not claims:
        return set()
    paths = {id(module): path for path, module in model.named_modules()}
    held = {
        (id(alive), attribute)
        for claim in claims
        for module, attribute in claim.holders
        if (alive := module()) is not None
    }
    twice = {
        (f"{path}.{attribute}" if path else attribute).replace(f"{COMPILED_MODULE}.", "")
        for module, attribute in held
        if (path := paths.get(module)) is not None
    }
    found = twice | _sharing(named_parameters(model), claims)
    return found if names is None else found & names


def register(training: object, claims: Sequence[Claim]) -> None:
    """Register a training's tensors as in sparse training, until :func:`unregister` or the end of its existence.

    Args:
        training: the training, which is referred to weakly.
        claims: on its tensors.
    """
    _CLAIMS[training] = tuple(claims)


def unregister(training: object) -> None:
    """Forget the tensors of a training, so that another one may claim them.

    Args:
        training: one that holds claims, or not.
    """
    _CLAIMS.pop(training, None)


def _sharing(parameters: Sequence[NamedParameter], claims: Sequence[Claim]) -> set[str]:
    """Return the names of the parameters that are claimed, or share memory with claimed ones."""
    trained = [tensor for claim in claims for tensor in claim.tensors()]
    known = {id(tensor) for tensor in trained}
    found = {one.name for one in parameters if id(one.parameter) in known}
    others = [one for one in parameters if one.name not in found]
    pairs = overlapping([*trained, *(one.parameter for one in others)])
    return found | {others[last - len(trained)].name for first, last in pairs if first < len(trained) <= last}


_SHOWN = 8


def check_model(model: Any) -> nn.Module:
    """Check that a model can be trained sparsely, and return it without wrappers.

    Raises:
        InputError: it is no module, or its parameters have no shape yet, or are on several devices or on none.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"sparsify takes a torch.nn.Module and its optimizer, in this order; given {type(model).__name__} first"
        )
    inner = unwrapped(model)
    lazy = [name for name, parameter in inner.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise InputError(f"{', '.join(lazy)} have no shape yet; run one batch through the model first")
    devices = sorted({str(parameter.device) for parameter in inner.parameters()})
    if len(devices) > 1:
        raise InputError(f"the model's parameters are on several devices, {', '.join(devices)}; sparsify takes one")
    if devices == ["meta"]:
        raise InputError("the model's parameters are on the device 'meta', without values; give them values first")
    return inner


def check_not_training_flag(value: object, frame: FrameType | None) -> None:
    """Check that a sparse training does not become a module's attribute ``training``.

    Args:
        value: the training.
        frame: of the function that reads its class.

    Raises:
        InputError: ``nn.Module.__setattr__`` is about to set the attribute.
    """
    if is_set_as_training_flag(value, frame):
        raise InputError(
            "self.training is torch's own flag of a module, which train() and eval() set, and a sparse training would "
            "replace it; give it another name: self.sparse_training = sparsify(...)"
        )


def check_others(model: nn.Module, selectors: Sequence[Any]) -> None:
    """Check that what is in compact storage is in training, and not chosen once more.

    With masks, tensors that are chosen once more are found by :func:`check_not_in_training`; in compact storage the
    model does not have them.

    Args:
        model: without wrappers.
        selectors: the globs and classes that choose tensors; none for the default choice.

    Raises:
        InputError: the model is a copy, its training was deleted, or a selector chooses a tensor that is in training.
    """
    compact = compact_attributes(model)
    if not compact:
        return
    claimed = {
        (id(module()), attribute) for own in list(_CLAIMS.values()) for one in own for module, attribute in one.holders
    }
    if any((id(module), attribute) not in claimed for _, module, attribute in compact):
        check_is_plain(model)
    chosen = [name for name, module, _ in compact if any(_chooses(one, name, module) for one in selectors)]
    if chosen or not selectors:
        names = listed(chosen or [name for name, *_ in compact], _SHOWN)
        raise InputError(
            f"{names} are in sparse training already; end that one first with squash(), or choose other tensors with "
            "include="
        )


def _chooses(selector: Any, name: str, module: nn.Module) -> bool:
    return isinstance(module, selector) if isinstance(selector, type) else fnmatchcase(name, str(selector))


def check_is_plain(model: nn.Module) -> None:
    """Check that no module uses compact storage, as in copies of a model and after its training was deleted.

    Raises:
        InputError: one is.
    """
    if compact_attributes(model):
        raise InputError(
            f"the model keeps its weights in {VALUES!r}, in compact storage: it is a copy, or its training was "
            "deleted; sparsify takes plain models, as squash() leaves them and export.squashed_copy() makes them"
        )


def check_layouts(tensors: Iterable[NamedParameter]) -> None:
    """Check that each entry of each tensor has an address of its own.

    Raises:
        InputError: a tensor is not strided, or entries share memory.
    """
    for one in tensors:
        tensor = local_shard(one.parameter) if one.parameter.layout is torch.strided else one.parameter
        obstacle = None
        if tensor.layout is not torch.strided:
            obstacle = f"has the layout {tensor.layout}"
        elif tensor.is_neg():
            obstacle = "is a view that negates its memory"
        elif _overlaps_itself(tensor):
            obstacle = f"has entries that share memory (its strides are {tensor.stride()}), as after expand()"
        if obstacle:
            raise InputError(
                f"{one.name} {obstacle}, and sparse training takes dense tensors whose entries can change one by one; "
                f"make it an ordinary one (to_dense(), clone()) before the optimizer, or leave it out with "
                f"exclude={one.name!r}"
            )


def _overlaps_itself(tensor: Tensor) -> bool:
    """Return whether two entries may have one address."""
    # they do not where a step in a dimension is longer than all steps in the denser ones together
    extent = 0
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= extent:
            return True
        extent += stride * (size - 1)
    return False


def check_gradients(tensors: Iterable[NamedParameter]) -> None:
    """Check that no tensor belongs to an embedding with sparse gradients.

    Raises:
        InputError: one does.
    """
    sparse = [one.name for one in tensors if any(_has_sparse_gradients(module) for module, _ in one.holders)]
    if sparse:
        raise InputError(
            f"{', '.join(sparse)} would have sparse gradients, which cannot be masked; make the embedding with "
            "sparse=False, or leave it dense with exclude="
        )


def _has_sparse_gradients(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse


def warn_of_lost_weights(tensors: Sequence[NamedParameter], topology: Topology) -> None:
    """Warn if tensors that seem to be trained sparsely lose nonzero weights to a newly drawn topology.

    Tensors that are all zero (the last layer of a residual branch, the second matrix of LoRA) have nothing to lose, and
    the row of an embedding's padding does not count.

    Args:
        tensors: with their present values, in the order of the layout.
        topology: the active positions.
    """
    lost: dict[str, tuple[int, int]] = {}
    for index, one in enumerate(tensors):
        dense = full_tensor(one.parameter)
        nonzero = int(dense.count_nonzero())
        gone = nonzero - int(gather_active(dense, topology, index).count_nonzero())
        if nonzero and _share_of_zeros(dense, one) >= MANY_ZEROS:
            lost[one.name] = (gone, nonzero)
    warn_of_loss(
        lost,
        "to continue a training, give its state dict as start, or call sparsify before loading: then load the state "
        "dicts of model, optimizer and training, or load the model alone and call training.adopt()",
        stacklevel=3,
    )


def _share_of_zeros(dense: Tensor, one: NamedParameter) -> float:
    padding = {
        module.padding_idx
        for module, _ in one.holders
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }
    if padding:
        rows = dense.new_ones(len(dense), dtype=torch.bool)
        rows[list(padding)] = False
        dense = dense[rows]
    return 1.0 - int(dense.count_nonzero()) / max(1, dense.numel())


@final
class Freezing:
    """Notices frozen tensors: ``requires_grad`` of the sparse tensors may change at any time.

    In compact storage all sparse tensors are one Parameter, which can only be frozen as a whole.

    Attributes:
        is_compact: whether the storage is compact; only then is there something to check.

    Args:
        tensors: the sparse tensors.
    """

    def __init__(self, tensors: Sequence[NamedParameter]) -> None:
        self.is_compact = weights_of(tensors) is not None
        self._tensors = {one.name: _lookup(one) for one in tensors}
        self._layers = [_CompactLayer.of(one.names[0], module) for one in tensors for module, _ in one.holders]

    def frozen(self) -> list[str]:
        """Return the tensors that are frozen now.

        Returns:
            Their names, of those whose ``requires_grad`` is False; in compact storage all or none.
        """
        return [name for name, tensor in self._tensors.items() if not tensor().requires_grad]

    def check(self) -> None:
        """Check that no layer of compact storage has been frozen, whose weights would still be trained.

        Raises:
            InputError: one has.
        """
        for layer in self._layers if self.is_compact else ():
            if layer.is_newly_frozen() and layer.name not in self.frozen():
                raise InputError(
                    f"the layer of {layer.name} has been frozen since sparsify, and in compact storage its weights "
                    f"go on to be trained: they are part of one Parameter, {VALUES}. Take storage='masked', "
                    "which leaves frozen tensors as they are, or freeze the layer before sparsify"
                )


@attrs.frozen(eq=False)
class _CompactLayer:
    """A module of compact storage.

    Attributes:
        name: of its sparse tensor.
        others: its dense parameters that were trained at the start.
    """

    name: str
    others: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, name: str, module: nn.Module) -> "_CompactLayer":
        own = [one for key, one in own_parameters(module).items() if one is not None and not key.startswith(VALUES)]
        return cls(name, tuple(own) if all(one.requires_grad for one in own) else ())

    def is_newly_frozen(self) -> bool:
        return bool(self.others) and not any(one.requires_grad for one in self.others)


def _lookup(one: NamedParameter) -> Callable[[], Tensor]:
    weights = weights_of([one])
    parameter = one.parameter if weights is None else weights.values
    # fully_shard has other objects in its place while the model computes
    return (lambda: one.parameter) if is_sharded(parameter) else (lambda: parameter)


def check_destination(path: Path) -> None:
    """Check that a file can be written to a path, before anything is computed for it.

    Args:
        path: of the file, which may exist.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} to write {path.name} to")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; the path of a file to write was expected")
