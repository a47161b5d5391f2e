"""The active weights that a sparse training starts with: chosen by the strategy, or taken from existing weights."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import DenseValues
from sparsecore.engine.engine import Engine
from sparsecore.engine.given_positions import check_no_empty, given_positions
from sparsecore.engine.growth import random_topology
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError, unknown
from sparsecore.extras import require
from sparsecore.toolbox.largest_weights import SCOPES

DEFAULT_SPARSITY = 0.9

Start = str | Topology | Mapping[str, Any]
"""A start whose arrays are NumPy's: a name, a topology, masks or positions by name, or a state dict."""


@attrs.frozen(eq=False)
class Request:
    """What is known of the training that is to start.

    Attributes:
        engine: of the training.
        values: all weights by the tensor's name, (D_i,), at least float32, on the engine's backend.
        nonzero: the weights that 'nonzero' keeps, by the tensor's name: row-major indices, ascending, on the host.
        sparsity: the requested one; None where none was given.
        scope: 'tensor' or 'network', the weights among which the largest are chosen.
        counts: the number of units that each tensor is to start with; None where the strategies decide.
    """

    engine: Engine
    values: DenseValues
    nonzero: Callable[[str], NDArray[np.integer]]
    sparsity: float | None
    scope: str
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

    def at(self, indices: Sequence[NDArray[np.integer]]) -> Topology:
        """Return the topology of active weights that are given for each tensor.

        Args:
            indices: of each tensor in the order of the layout: row-major indices, ascending.

        Raises:
            InputError: a tensor has none.
        """
        layout = self.engine.layout
        check_no_empty(layout, [len(own) for own in indices])
        pairs = zip(indices, layout.offsets, strict=False)
        return self.on(np.concatenate([own + offset for own, offset in pairs]))

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
        start: 'random', 'magnitude' or 'nonzero'; a topology; masks or positions by tensor name; or a state dict.
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


def is_random(start: object) -> bool:
    """Return whether the strategy chooses the positions."""
    return isinstance(start, str) and start == "random"


def is_drawn(start: object) -> bool:
    """Return whether the number of weights follows from the sparsity, and is not given by the start."""
    return isinstance(start, str) and start in {"random", "magnitude"}


def is_named(start: str) -> bool:
    """Return whether a string is the name of a start, and no path."""
    return start in _NAMED


def with_content(start: str | PathLike[str] | Topology | Mapping[str, Any], framework: str, extra: str) -> Start:
    """Return the arrays of a start that is a safetensors file, by name, and any other start as it is.

    Args:
        start: as for ``sparsify``.
        framework: the module of safetensors that makes the arrays, such as 'torch'.
        extra: the extra of this library that installs safetensors.

    Raises:
        InputError: the file cannot be read.
    """
    if not isinstance(start, str | PathLike) or (isinstance(start, str) and not _is_file_name(start)):
        return start
    require("safetensors", extra=extra, purpose="a start from a safetensors file")
    from safetensors import SafetensorError

    path = Path(start)
    if not path.is_file():
        raise InputError(f"there is no file {path}, from which the positions of the start were to be read")
    try:
        content: Mapping[str, Any] = import_module(f"safetensors.{framework}").load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a safetensors file: {error}") from error
    return content


def _is_file_name(start: str) -> bool:
    return not is_named(start) and Path(start).suffix == ".safetensors"


def is_saved_training(start: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a start is the state dict of a training, which is loaded afterwards."""
    return isinstance(start, Mapping) and "format" in start and "positions" in start


def _nonzero(request: Request) -> Topology:
    positions = [request.nonzero(name) for name in request.engine.layout.names]
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
    if start not in _NAMED:
        raise InputError(f"{unknown('start', start, _NAMED)}; or the path of a .safetensors file")
    return _NAMED[start](request)


def _of_topology(start: Topology, request: Request) -> Topology:
    if start.layout != request.engine.layout:
        raise InputError("the topology to start at is of another layout than the sparse tensors of this model")
    return request.on(np.asarray(start.host_positions))


def _of_mapping(start: Mapping[str, Any], request: Request) -> Topology:
    if is_saved_training(start):
        return request.on(np.asarray(start["positions"]))
    try:
        positions = given_positions(request.engine.layout, start)
    except InputError as error:
        raise InputError(f"{error}; include= and exclude= say which tensors are sparse") from error
    return request.on(positions)


_KINDS: Mapping[type, Callable[[Any, Request], Topology]] = MappingProxyType(
    {str: _of_text, Topology: _of_topology, Mapping: _of_mapping}
)
