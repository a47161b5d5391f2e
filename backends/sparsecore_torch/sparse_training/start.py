"""The active weights that a sparse training starts with: chosen by the strategy, or taken from existing weights."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, listed, unknown
from sparsecore.extras import require
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.tensors import full_tensor

DEFAULT_SPARSITY = 0.9

_SHOWN = 8
"""The number of tensors that an error sentence names."""

Start = str | PathLike[str] | Topology | Mapping[str, Any]
"""What ``sparsify`` accepts as ``start``."""


@attrs.frozen(eq=False)
class Request:
    """What is known of the training that is to start.

    Attributes:
        engine: of the training.
        tensors: the sparse tensors, in the order of the layout, with the weights that they have now.
        sparsity: the requested one; None where none was given.
        scope: 'tensor' or 'network', the weights among which the largest are chosen.
        pruned: the masks that ``torch.nn.utils.prune`` had on Parameters, by the identity of these.
    """

    engine: Engine
    tensors: Sequence[NamedParameter]
    sparsity: float | None
    scope: str
    pruned: Mapping[int, Tensor]

    @property
    def wanted_sparsity(self) -> float:
        """The requested sparsity, or the default one."""
        return DEFAULT_SPARSITY if self.sparsity is None else self.sparsity

    def drawn(self) -> Topology:
        """Return the positions that the strategies draw."""
        return self.engine.initial_topology(self.wanted_sparsity)

    def weights(self) -> list[Tensor]:
        """Return all weights of each tensor, row-major, (D_i,). Collective where they are sharded."""
        return [full_tensor(one.parameter).detach().reshape(-1) for one in self.tensors]

    def at(self, indices: Sequence[Tensor]) -> Topology:
        """Return the topology of active weights that are given for each tensor.

        Args:
            indices: of each tensor in the order of the layout: row-major indices, ascending.

        Raises:
            InputError: a tensor has none.
        """
        layout = self.engine.layout
        empty = [name for name, own in zip(layout.names, indices, strict=True) if not len(own)]
        if empty:
            raise InputError(f"no weight is to be active in {', '.join(empty)}; leave such tensors out with exclude=")
        pairs = zip(indices, layout.offsets, strict=False)
        return self.on(np.concatenate([np.asarray(own) + offset for own, offset in pairs]))

    def on(self, positions: NDArray[np.integer]) -> Topology:
        """Return the topology of positions of the layout.

        Args:
            positions: flat, ascending, (N,).
        """
        layout, arrays = self.engine.layout, self.engine.arrays
        return Topology.of(layout, arrays.from_numpy(positions.astype(layout.position_dtype)), arrays)


def start_topology(start: Start, request: Request) -> Topology:
    """Return the weights that are active before the first step.

    Args:
        start: see :func:`sparsecore_torch.sparsify`.
        request: what else is known.

    Returns:
        The topology, which the engine is still to check where it was given.

    Raises:
        InputError: it is no start, or does not fit the model.
    """
    if request.scope not in _SCOPES:
        raise InputError(unknown("scope", request.scope, _SCOPES))
    if request.scope != "tensor" and not (isinstance(start, str) and start == "magnitude"):
        raise InputError(f"scope={request.scope!r} is for start='magnitude' alone, which looks for the largest weights")
    for kind, read in _KINDS.items():
        if isinstance(start, kind):
            return read(start, request)
    raise InputError(
        f"start is {start!r}; expected {', '.join(map(repr, _NAMED))}, the path of a safetensors file, a topology, a "
        "dict of masks or positions by tensor name, or the state dict of a training"
    )


def is_random(start: Start) -> bool:
    """Return whether the strategy chooses the positions."""
    return isinstance(start, str) and start == "random"


def is_drawn(start: Start) -> bool:
    """Return whether the number of weights follows from the sparsity, and is not given by the start."""
    return isinstance(start, str) and start in {"random", "magnitude"}


def is_saved_training(start: Start) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a start is the state dict of a training, which is loaded afterwards."""
    return isinstance(start, Mapping) and "format" in start and "positions" in start


@contextmanager
def pruning_ended(model: nn.Module, *, unless: bool = False) -> Iterator[Mapping[int, Tensor]]:
    """Make the masks of ``torch.nn.utils.prune`` permanent, so that the model has plain Parameters with zeros.

    Where the block raises an error, the masks are put back.

    Args:
        model: changed in place; its Parameters stay the same objects.
        unless: whether to leave the model as it is.

    Yields:
        The mask of each Parameter that had one, by its identity.
    """
    remove: Any = prune.remove
    put_back: Any = prune.custom_from_mask
    found = [] if unless else list(_pruned(model))
    for module, name, *_ in found:
        remove(module, name)
    try:
        yield {id(parameter): mask for _, _, parameter, mask, _ in found}
    except BaseException:
        for module, name, parameter, mask, values in found:
            parameter.data.copy_(values)
            put_back(module, name, mask)
        raise


def _pruned(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter, Tensor, Tensor]]:
    """Modules, names and Parameters that are masked, the mask and a copy of the values under it."""
    for module in list(model.modules()):
        for buffer, mask in list(module.named_buffers(recurse=False)):
            name = buffer.removesuffix("_mask")
            parameter = getattr(module, f"{name}_orig", None)
            if buffer.endswith("_mask") and isinstance(parameter, nn.Parameter):
                yield module, name, parameter, mask.detach().clone() != 0, parameter.detach().clone()


def _random(request: Request) -> Topology:
    return request.drawn()


def _nonzero(request: Request) -> Topology:
    # a weight that prune has kept counts, though it may be zero at present
    masks = [request.pruned.get(id(one.parameter), None) for one in request.tensors]
    pairs = zip(request.weights(), masks, strict=True)
    positions = [(one if mask is None else mask.reshape(-1)).nonzero().view(-1).cpu() for one, mask in pairs]
    if sum(map(len, positions)) == request.engine.layout.size:
        raise InputError(
            "start='nonzero' keeps the weights that are not zero, and no weight of this model's sparse tensors is "
            "zero, so that all of them would be active; start='magnitude' keeps the largest"
        )
    return request.at(positions)


def _magnitude(request: Request) -> Topology:
    """The largest weights: as many in each tensor as the strategy would start with, or as many over all."""
    engine = request.engine
    units = engine.unit_map.units(request.drawn())
    flat = {name: weights.abs() for name, weights in zip(engine.layout.names, request.weights(), strict=True)}
    scores_of = engine.unit_map.gradient(lambda name: flat[name], engine.arrays)
    scores = [as_tensor(scores_of(name)).float().reshape(-1) for name in units.layout.names]
    chosen = _SCOPES[request.scope](engine.arrays, scores, [int(count) for count in units.counts])
    positions = torch.cat([one + offset for one, offset in zip(chosen, units.layout.offsets, strict=False)])
    arrays = engine.arrays
    topology = units.at(arrays.from_numpy(positions.cpu().numpy().astype(units.layout.position_dtype)))
    return engine.unit_map.weights(topology)


def _largest_of_each(arrays: Arrays, scores: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    return [_largest(arrays, one, count) for one, count in zip(scores, counts, strict=True)]


def _largest_of_all(arrays: Arrays, scores: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """The largest over all tensors, with at least one in each."""
    together = torch.cat(list(scores))
    bounds = np.cumsum([0, *map(len, scores)])
    for first, one in zip(bounds, scores, strict=False):
        together[int(first) + int(one.argmax())] = float("inf")
    chosen = _largest(arrays, together, sum(counts))
    inner = torch.searchsorted(chosen, torch.from_numpy(bounds))
    return [chosen[inner[i] : inner[i + 1]] - int(bounds[i]) for i in range(len(scores))]


def _largest(arrays: Arrays, scores: Tensor, count: int) -> Tensor:
    """The indices of the largest scores, ascending; of equal ones those with the lowest indices, and NaN is largest."""
    return as_tensor(arrays.smallest_indices(-scores.nan_to_num(torch.inf, torch.inf), count)).cpu()


_SCOPES: Mapping[str, Callable[[Arrays, Sequence[Tensor], Sequence[int]], list[Tensor]]] = MappingProxyType(
    {"tensor": _largest_of_each, "network": _largest_of_all}
)

_NAMED: Mapping[str, Callable[[Request], Topology]] = MappingProxyType(
    {"random": _random, "nonzero": _nonzero, "magnitude": _magnitude}
)


def _of_text(start: str, request: Request) -> Topology:
    if start in _NAMED:
        return _NAMED[start](request)
    if Path(start).suffix != ".safetensors":
        raise InputError(f"{unknown('start', start, _NAMED)}; or the path of a .safetensors file")
    return _of_file(start, request)


def _of_file(start: str | PathLike[str], request: Request) -> Topology:
    require("safetensors", extra="torch", purpose="a start from a safetensors file")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(start)
    if not path.is_file():
        raise InputError(f"there is no file {path}, from which the positions of the start were to be read")
    try:
        content = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a safetensors file: {error}") from error
    return _of_mapping(content, request)


def _of_topology(start: Topology, request: Request) -> Topology:
    if start.layout != request.engine.layout:
        raise InputError("the topology to start at is of another layout than the sparse tensors of this model")
    return request.on(np.asarray(start.host_positions))


def _of_mapping(start: Mapping[str, Any], request: Request) -> Topology:
    if is_saved_training(start):
        return request.on(np.asarray(torch.as_tensor(start["positions"]).cpu()))
    layout = request.engine.layout
    _check_names(list(map(str, start)), layout.names)
    columns = zip(layout.names, layout.shapes, strict=True)
    return request.at([_indices(name, torch.as_tensor(start[name]), shape) for name, shape in columns])


def _check_names(given: Sequence[str], sparse: Sequence[str]) -> None:
    """Refuse a start that does not have an entry for each sparse tensor, and no other one."""
    missing, others = [name for name in sparse if name not in given], [name for name in given if name not in sparse]
    if missing:
        raise InputError(
            f"the start has no mask and no positions for {listed(missing, _SHOWN)}; it has "
            f"{listed(given, _SHOWN) or 'no entries'}, and needs an entry for each sparse tensor; "
            "exclude= leaves tensors dense"
        )
    if others:
        raise InputError(
            f"the start has an entry for {listed(others, _SHOWN)}, which is no sparse tensor of this training; "
            f"sparse are {listed(sparse, _SHOWN)}; include= makes others sparse"
        )


def _indices(name: str, given: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The row-major indices that a mask, or positions, of one tensor name."""
    given = given.detach().cpu()
    size = math.prod(shape)
    if given.ndim == 1 and not len(given):
        raise InputError(f"the start has no position for {name}; leave such tensors dense with exclude={name!r}")
    if tuple(given.shape) == tuple(shape) and not _are_positions(given):
        if not given.dtype.is_floating_point and given.dtype is not torch.bool and given.min() < 0:
            raise InputError(f"the mask of {name} has negative entries; it is zero where no weight is to be active")
        return given.reshape(-1).nonzero().view(-1)
    if not _are_positions(given):
        raise InputError(
            f"the start of {name} is {given.dtype} of shape {tuple(given.shape)}; expected a mask of shape "
            f"{tuple(shape)}, or its row-major positions as one vector of integers"
        )
    ordered = given.long().sort().values
    if len(ordered) and (ordered[0] < 0 or ordered[-1] >= size or bool((ordered.diff() == 0).any())):
        raise InputError(f"the positions of {name} must be distinct and from 0 to {size - 1}")
    return ordered


def _are_positions(given: Tensor) -> bool:
    return given.ndim == 1 and given.dtype in {torch.int32, torch.int64}


_KINDS: Mapping[type, Callable[[Any, Request], Topology]] = MappingProxyType(
    {str: _of_text, PathLike: _of_file, Topology: _of_topology, Mapping: _of_mapping}
)
