"""Validation of strategy states in files: whether the training that is to load them can have written them."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Counts, describe
from sparsecore.engine.state import dump_strategy_state, load_strategy_state, strategy_state_error
from sparsecore.engine.topology import Topology


@runtime_checkable
class ChecksLoading(Protocol):
    """A strategy state whose class says what is wrong with one that was read from a file."""

    def loading_error(self, like: Any, topology: Topology) -> str | None:
        """Return what is wrong with this state beyond what holds for all strategies; None where nothing is.

        Before, types, dtypes and numbers of axes have been compared with ``like``, and the lengths of vectors with one
        entry a weight or a position with the topology.

        Args:
            like: a state of the training that is to go on with this one.
            topology: the active positions in the file, in units where the run moves units.

        Returns:
            The end of a sentence that begins with "the strategy state has".
        """


def saved_strategy_state_error(
    like: Any, scalars: Mapping[str, Any], vectors: Mapping[str, Any], topology: Topology
) -> str | None:
    """Return what is wrong with a strategy state in a file, as the end of a sentence; None where nothing is.

    Args:
        like: a state of the training that is to go on with it.
        scalars: as :func:`sparsecore.engine.state.dump_strategy_state` returns them, of any content.
        vectors: likewise.
        topology: the active positions in the file, in units, on the backend that is to hold the vectors.
    """
    error = next(_errors_of_entries(like, scalars, vectors, topology), None)
    if error is not None:
        return error
    loaded = load_strategy_state(like, scalars, vectors, topology.arrays)
    error = strategy_state_error(loaded, topology.size, len(topology.layout), topology.layout.size)
    if error is not None or not isinstance(loaded, ChecksLoading):
        return error
    return loaded.loading_error(like, topology)


def weight_counts_error(name: str, counts: Counts, like: Counts, topology: Topology) -> str | None:
    """Return what is wrong with numbers of weights in a strategy state that was read; None where nothing is.

    Args:
        name: of the field.
        counts: as read, int64; one number a tensor, or a single one for all tensors together.
        like: those of the training that is to go on with them.
        topology: of the layout; the active positions do not matter.

    Returns:
        The end of a sentence.
    """
    sizes = topology.layout.sizes if len(like) == len(topology.layout) else (topology.layout.size,)
    if len(counts) != len(sizes):
        return f"{len(counts)} entries in {name}; expected {len(sizes)}"
    if not np.all((counts >= 0) & (counts <= sizes)) or not counts.any():
        shown, most = (", ".join(map(str, numbers)) for numbers in (counts.tolist(), sizes))
        return f"{name} = {shown}; expected numbers of weights, of at most {most} positions and not all zero"
    return None


def _errors_of_entries(
    like: Any, scalars: Mapping[str, Any], vectors: Mapping[str, Any], topology: Topology
) -> Iterator[str]:
    fresh_scalars, fresh_vectors = dump_strategy_state(like, topology.arrays)
    known = {*fresh_scalars, *fresh_vectors}
    if {*scalars, *vectors} != known or {*scalars} & {*vectors}:
        given, expected = (", ".join(sorted(map(str, names))) or "none" for names in ({*scalars, *vectors}, known))
        yield f"the fields {given}; expected {expected}"
        return
    types = {field.name: field.type for field in attrs.fields(type(like))}
    for name in scalars.keys() & fresh_scalars.keys():
        if not _is_alike(scalars[name], fresh_scalars[name], types[name]):
            yield f"{name} = {describe(scalars[name])}, and began with {fresh_scalars[name]!r}"
    for name, vector in vectors.items():
        if not isinstance(vector, np.ndarray):
            yield f"{name} = {vector!r}; expected an array"
        elif name in fresh_vectors:
            yield from _errors_of_vector(name, vector, fresh_vectors[name])


def _errors_of_vector(name: str, vector: NDArray[Any], fresh: NDArray[Any]) -> Iterator[str]:
    # sums of float32 may have been widened by gradients of float64
    is_widened = vector.dtype.kind == fresh.dtype.kind == "f" and vector.dtype.itemsize > fresh.dtype.itemsize
    if (vector.dtype != fresh.dtype and not is_widened) or vector.ndim != fresh.ndim:
        yield f"{name} of {vector.dtype}, with {vector.ndim} axes; expected {fresh.dtype}, with {fresh.ndim}"
    elif vector.dtype.kind == "f" and np.isfinite(fresh).all() and not np.isfinite(vector).all():
        yield f"numbers in {name} that are not finite"


_PLAIN: Mapping[Any, tuple[type, ...]] = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}
"""The types that the values of a field with this annotation have in files."""


def _is_alike(given: Any, fresh: Any, annotation: Any) -> bool:
    """Return whether a field can have this value, by its annotation or else by the type of its present one."""
    if annotation in _PLAIN:
        return type(given) in _PLAIN[annotation]
    if given is None or fresh is None:
        return True
    numbers = (int, float)
    if isinstance(given, bool) or isinstance(fresh, bool) or not isinstance(fresh, numbers):
        return type(given) is type(fresh)
    return isinstance(given, numbers)
