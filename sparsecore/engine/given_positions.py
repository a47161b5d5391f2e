"""Active positions that are given as masks or as positions, by the names of the tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, listed

_SHOWN = 8
"""The number of tensors that an error sentence names."""


def given_positions(layout: Layout, given: Mapping[str, NDArray[Any]]) -> NDArray[np.integer]:
    """Return the positions of the layout that masks or positions name.

    Args:
        layout: of the sparse tensors.
        given: for each of them a mask of its shape, zero where no weight is to be active, or its row-major positions
            as one vector of int32 or int64 in any order. A vector of whole numbers is one of positions.

    Returns:
        Flat positions, ascending, in the layout's position dtype, (N,).

    Raises:
        InputError: a tensor has no entry or no active weight, an entry is of no sparse tensor, or it is neither a mask
            nor positions.
    """
    _check_names(list(given), layout.names)
    columns = zip(layout.names, layout.shapes, layout.offsets, strict=False)
    flat = [_indices(name, np.asarray(given[name]), shape) + offset for name, shape, offset in columns]
    return np.concatenate(flat).astype(layout.position_dtype)


def check_no_empty(layout: Layout, counts: Sequence[int]) -> None:
    """Check that every tensor has an active weight.

    Args:
        layout: of the sparse tensors.
        counts: their numbers of active weights.

    Raises:
        InputError: one has none; the message names all such tensors.
    """
    empty = [name for name, count in zip(layout.names, counts, strict=True) if not count]
    if empty:
        raise InputError(f"no weight is to be active in {listed(empty, _SHOWN)}; such a tensor cannot be sparse")


def _check_names(given: Sequence[str], sparse: Sequence[str]) -> None:
    """Refuse a start that does not have an entry for each sparse tensor, and no other one."""
    missing, others = [name for name in sparse if name not in given], [name for name in given if name not in sparse]
    if missing:
        raise InputError(
            f"the start has no mask and no positions for {listed(missing, _SHOWN)}; it has "
            f"{listed(given, _SHOWN) or 'no entries'}, and needs an entry for each sparse tensor"
        )
    if others:
        raise InputError(
            f"the start has an entry for {listed(others, _SHOWN)}, which is no sparse tensor of this network; "
            f"sparse are {listed(sparse, _SHOWN)}"
        )


def _indices(name: str, given: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The row-major indices that a mask, or positions, of one tensor name; at least one."""
    indices = _named(name, given, shape)
    if not len(indices):
        raise InputError(f"no weight is to be active in {name}; such a tensor cannot be sparse")
    return indices


def _named(name: str, given: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    are_positions = given.ndim == 1 and given.dtype in (np.int32, np.int64)
    if given.shape == shape and not are_positions:
        if given.dtype.kind == "i" and given.min() < 0:
            raise InputError(f"the mask of {name} has negative entries; it is zero where no weight is to be active")
        if given.dtype.kind == "f" and np.isnan(given).any():
            raise InputError(f"the mask of {name} has entries that are NaN; it is zero where no weight is to be active")
        return np.flatnonzero(given).astype(np.int64)
    if not are_positions and given.size:
        raise InputError(
            f"the start of {name} is {given.dtype} of shape {given.shape}; expected a mask of shape {shape}, or its "
            "row-major positions as one vector of integers"
        )
    ordered = np.sort(given.astype(np.int64).ravel())
    size = math.prod(shape)
    if len(ordered) and (ordered[0] < 0 or ordered[-1] >= size or bool((np.diff(ordered) == 0).any())):
        raise InputError(f"the positions of {name} must be distinct and from 0 to {size - 1}")
    return ordered
