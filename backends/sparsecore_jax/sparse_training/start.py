"""What ``sparsify`` accepts as ``start``, with masks in the parameters' shapes turned as the engine has its tensors."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, cast

import jax
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Topology
from sparsecore.sparse_training import start as shared
from sparsecore.sparse_training.start import Request, is_saved_training
from sparsecore_jax.sparse_training.parameters import PyTree, leaves_of
from sparsecore_jax.sparse_training.tensors import SparseTensors, on_host

Start = str | PathLike[str] | Topology | Mapping[str, Any]
"""What ``sparsify`` accepts as ``start``: also a tree of masks of the parameters' structure."""


def request_of(
    engine: Engine, tensors: SparseTensors, params: PyTree, scope: str, counts: Mapping[str, int] | None
) -> Request:
    """Return what is known of the training that is to start.

    Args:
        engine: for all sparse tensors.
        tensors: the sparse tensors.
        params: with the present weights.
        scope: 'tensor' or 'network', the weights among which the largest are chosen.
        counts: the number of units that each tensor is to start with; None where the strategies decide.
    """
    values = tensors.flat(params)
    return Request(
        engine=engine,
        values=values,
        nonzero=lambda name: np.flatnonzero(cast("NDArray[Any]", values(name))),
        sparsity=None,
        scope=scope,
        counts=counts,
    )


def read_start(start: Any, tensors: SparseTensors) -> shared.Start:
    """Return a start whose arrays are NumPy's, in the engine's order.

    Args:
        start: as for ``sparsify``; a file is read.
        tensors: the sparse tensors.

    Raises:
        InputError: a file cannot be read, or a tree has no masks.
    """
    start = shared.with_content(start, "flax", extra="jax")
    if isinstance(start, str | Topology):
        return start
    if is_saved_training(start):
        return {**start, "positions": np.asarray(start["positions"])}
    by_name = _by_name(start)
    orientations = dict(zip(tensors.layout.names, tensors.orientations, strict=True))
    turned = {}
    for name, given in by_name.items():
        own, host = orientations.get(name), _plain(given)
        if own is not None and host.shape == own.shape:
            host = own.flat(host).reshape(own.engine_shape)
        elif own is not None and host.ndim == 1 and host.dtype.kind in "iu" and own.leaf_indices is not None:
            host = _turned_positions(own.leaf_indices, host)
        turned[name] = host
    return turned


def _turned_positions(leaf_indices: NDArray[np.integer], positions: NDArray[Any]) -> NDArray[np.int64]:
    """Return the engine's positions of row-major indices in a leaf; those out of range stay so."""
    inverse = np.empty(len(leaf_indices), np.int64)
    inverse[leaf_indices] = np.arange(len(leaf_indices))
    is_inside = (positions >= 0) & (positions < len(leaf_indices))
    return np.where(is_inside, inverse[np.where(is_inside, positions, 0)], positions.astype(np.int64))


def _by_name(start: Any) -> dict[str, Any]:
    """Return masks by name, which may be given in a tree of the parameters' structure."""
    if isinstance(start, Mapping) and all(hasattr(one, "shape") or isinstance(one, list) for one in start.values()):
        return {str(name): one for name, one in start.items()}
    leaves = leaves_of(start)
    return {one.name: array for one, array in zip(leaves, jax.tree.leaves(start), strict=True)}


def _plain(given: Any) -> NDArray[Any]:
    """Return an array of NumPy, in a type of NumPy's own."""
    host = on_host(given, None)
    return host.astype(np.float32) if host.dtype.kind == "V" else host
