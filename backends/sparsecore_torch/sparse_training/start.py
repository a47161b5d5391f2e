"""The active weights that a sparse training starts with: chosen by the strategy, or taken from existing weights."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard, cast

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsecore.engine.arrays import Array, DenseValues
from sparsecore.engine.engine import Engine
from sparsecore.engine.given_positions import check_no_empty, given_positions
from sparsecore.engine.growth import random_topology
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, unknown
from sparsecore.extras import require
from sparsecore.toolbox.largest_weights import SCOPES
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.tensors import full_tensor

DEFAULT_SPARSITY = 0.9

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
        counts: the number of units that each tensor is to start with; None where the strategies decide.
    """

    engine: Engine
    tensors: Sequence[NamedParameter]
    sparsity: float | None
    scope: str
    pruned: Mapping[int, Tensor]
    counts: Mapping[str, int] | None = None

    @property
    def wanted_sparsity(self) -> float:
        """The requested sparsity, or the default one."""
        return DEFAULT_SPARSITY if self.sparsity is None else self.sparsity

    def drawn(self) -> Topology:
        """Return the positions that the strategies choose, or random ones where the number in each tensor is given."""
        if self.counts is not None:
            units, engine = self.engine.unit_map, self.engine
            counts = np.array([self.counts[name] for name in units.layout.names], np.int64)
            random = engine.random.child("initial topology")
            return units.weights(random_topology(units.layout, counts, random, engine.arrays))
        return self.engine.initial_topology(self.wanted_sparsity, self.values)

    def weights(self) -> list[Tensor]:
        """Return all weights of each tensor, row-major, (D_i,). Collective where they are sharded."""
        return [_weights(one) for one in self.tensors]

    @property
    def values(self) -> DenseValues:
        """All weights by the tensor's name, (D_i,), at least float32. Collective where they are sharded."""
        by_name = {one.name: one for one in self.tensors}
        dtype = functools.reduce(torch.promote_types, (one.parameter.dtype for one in self.tensors), torch.float32)
        return lambda name: cast(Array, _weights(by_name[name]).to(dtype))

    def at(self, indices: Sequence[Tensor]) -> Topology:
        """Return the topology of active weights that are given for each tensor.

        Args:
            indices: of each tensor in the order of the layout: row-major indices, ascending.

        Raises:
            InputError: a tensor has none.
        """
        layout = self.engine.layout
        check_no_empty(layout, [len(own) for own in indices])
        pairs = zip(indices, layout.offsets, strict=False)
        return self.on(np.concatenate([np.asarray(own) + offset for own, offset in pairs]))

    def on(self, positions: NDArray[np.integer]) -> Topology:
        """Return the topology of positions of the layout.

        Args:
            positions: flat, ascending, (N,).
        """
        layout, arrays = self.engine.layout, self.engine.arrays
        return Topology.of(layout, arrays.from_numpy(positions.astype(layout.position_dtype)), arrays)


def _weights(one: NamedParameter) -> Tensor:
    return full_tensor(one.parameter).detach().reshape(-1)


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
    if request.scope not in SCOPES:
        raise InputError(unknown("scope", request.scope, SCOPES))
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
    return engine.unit_map.weights(
        SCOPES[request.scope](units, engine.unit_map.gradient(request.values, engine.arrays))
    )


_NAMED: Mapping[str, Callable[[Request], Topology]] = MappingProxyType(
    {"random": Request.drawn, "nonzero": _nonzero, "magnitude": _magnitude}
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
    try:
        positions = given_positions(request.engine.layout, {str(name): _on_host(start[name]) for name in start})
    except InputError as error:
        raise InputError(f"{error}; include= and exclude= say which tensors are sparse") from error
    return request.on(positions)


def _on_host(given: Any) -> NDArray[Any]:
    tensor = torch.as_tensor(given).detach().cpu()
    return (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()  # NumPy has no bfloat16


_KINDS: Mapping[type, Callable[[Any, Request], Topology]] = MappingProxyType(
    {str: _of_text, PathLike: _of_file, Topology: _of_topology, Mapping: _of_mapping}
)
