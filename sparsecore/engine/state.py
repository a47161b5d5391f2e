"""The state of the engine between two steps, and the states that strategies keep in it, as plain values."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, DenseValues, describe
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError

StrategyStates: TypeAlias = Mapping[str, Any]
"""The strategy state of each plugin that has one, by the plugin's name."""

_MARK = "sparsecore one entry a"


def per_weight() -> Any:
    """Declare an attrs field of a strategy state: a vector with one entry a weight, carried along when weights move."""
    return attrs.field(metadata={_MARK: "weight"})


def per_position() -> Any:
    """Declare an attrs field of a strategy state: a vector with one entry a position, active or not."""
    return attrs.field(metadata={_MARK: "position"})


def by_tensor(entries: Array, layout: Layout) -> DenseValues:
    """Return the entries of each tensor of a vector with one entry a position.

    Args:
        entries: (D,), such as a vector of :func:`per_position`.
        layout: the tensors.

    Returns:
        A function from a tensor's name to its D_i entries, in the form of a dense gradient or of initial values.
    """

    def of(name: str) -> Array:
        tensor = layout.index(name)
        return entries[layout.offsets[tensor] : layout.offsets[tensor + 1]]

    return of


def carry_strategy_state(strategy_state: Any, carry: Callable[[Array], Array]) -> Any:
    """Return the strategy state with ``carry`` applied to each of its per-weight vectors.

    Args:
        strategy_state: an attrs value.
        carry: maps a vector with one entry a weight before an update to one after it, as
            :meth:`sparsecore.engine.reallocation.Reallocation.carry` does.

    Returns:
        A new value; fields that are not :func:`per_weight` are the same objects.
    """
    return _with(strategy_state, {name: carry(vector) for name, vector in vectors_of(strategy_state).items()})


def readonly_strategy_state(strategy_state: Any, arrays: Arrays) -> Any:
    """Return the strategy state with read-only vectors, as far as the backend supports them.

    Args:
        strategy_state: an attrs value.
        arrays: the operations of the backend that holds its vectors.

    Returns:
        A new value, whose :func:`per_weight` and :func:`per_position` fields are views; other fields are left alone.
    """
    vectors = {name: getattr(strategy_state, name) for name in _on_backend(strategy_state)}
    return _with(strategy_state, {name: arrays.readonly(vector) for name, vector in vectors.items()})


def vectors_of(strategy_state: Any) -> dict[str, Array]:
    """Return the per-weight vectors of a strategy state by field name.

    Args:
        strategy_state: an attrs value.

    Returns:
        The vectors of the fields that are declared by :func:`per_weight`, (N,) or (N, ...), on the backend.
    """
    return {
        name: getattr(strategy_state, name) for name, entry in _on_backend(strategy_state).items() if entry == "weight"
    }


def strategy_state_error(strategy_state: Any, weights: int, tensors: int, positions: int) -> str | None:
    """Return what is wrong with a strategy state, as the end of a sentence; None where nothing is.

    Args:
        strategy_state: what a hook has returned.
        weights: N, the length of a per-weight vector.
        tensors: the length of a vector with one entry a tensor.
        positions: D, the length of a per-position vector.
    """
    if isinstance(strategy_state, type) or not attrs.has(type(strategy_state)):
        return f"{strategy_state!r}; a strategy state is an attrs value"
    lengths = {"weight": weights, "position": positions}
    for field in attrs.fields(type(strategy_state)):
        content, entry = getattr(strategy_state, field.name), field.metadata.get(_MARK)
        if not field.init:
            return (
                f"a {type(strategy_state).__name__} whose field {field.name!r} is no argument of the class; make it one"
            )
        if entry is not None:
            if getattr(content, "shape", ())[:1] != (lengths[entry],):
                return f"{field.name!r} = {describe(content)}; expected one entry a {entry}, {lengths[entry]}"
        elif (entries := getattr(content, "shape", ())[:1]) in {(weights,), (positions,)} and entries != (tensors,):
            return f"{entries[0]} entries in {field.name!r}, {_ADVICE[entries == (weights,), entries == (positions,)]}"
        elif not _can_be_saved(content):
            return f"{field.name!r} = {describe(content)}; expected {_SAVED}"
    return None


_ADVICE = {
    (True, False): "one a weight, that would not be carried along; make it a per_weight() field",
    (False, True): "one a position, which not every backend could save; make it a per_position() field",
    (True, True): "one a weight or a position; make it a per_weight() field, to be carried along when weights move, or "
    "a per_position() field, to stay as it is",
}
"""Advice about an unmarked vector, by whether it has one entry a weight, and one a position."""

_SAVED = "a finite number, a bool, a string, None, or a NumPy array of numbers"


def _can_be_saved(content: Any) -> bool:
    match content:
        case np.generic():
            return False
        case None | bool() | str():
            return True
        case int():
            return abs(content) < 2**63
        case float():
            return math.isfinite(content)
        case np.ndarray():
            return content.dtype.kind in "biuf" and content.dtype.itemsize <= 8
    return False


def dump_strategy_state(strategy_state: Any, arrays: Arrays) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the strategy state as JSON-able scalars and as host arrays, each by field name.

    Args:
        strategy_state: an attrs value without a :func:`strategy_state_error`.
        arrays: the operations of the backend that holds its vectors.

    Returns:
        The scalars (numbers, bools, strings and None), and all arrays as NumPy arrays: those of the backend copied from
        its device, in their dtypes.
    """
    scalars: dict[str, Any] = {}
    vectors: dict[str, NDArray[Any]] = {}
    on_backend = _on_backend(strategy_state)
    for field in attrs.fields(type(strategy_state)):
        content = getattr(strategy_state, field.name)
        if field.name in on_backend:
            vectors[field.name] = arrays.to_numpy(content)
        elif isinstance(content, np.ndarray):
            vectors[field.name] = content
        else:
            scalars[field.name] = content
    return scalars, vectors


def load_strategy_state(
    like: Any, scalars: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], arrays: Arrays
) -> Any:
    """Return the strategy state whose parts :func:`dump_strategy_state` has returned.

    Args:
        like: a strategy state of the type that is to be returned.
        scalars: as dumped.
        vectors: as dumped.
        arrays: the operations of the backend that is to hold the vectors.

    Raises:
        InputError: they have other fields than the type.
    """
    fields = {field.name for field in attrs.fields(type(like))}
    if fields != set(scalars) | set(vectors):
        raise InputError(
            f"the saved strategy state has the fields {', '.join(sorted(set(scalars) | set(vectors)))}, "
            f"{type(like).__name__} has {', '.join(sorted(fields))}"
        )
    on_backend = _on_backend(like)
    loaded = {name: arrays.from_numpy(vector) if name in on_backend else vector for name, vector in vectors.items()}
    return _with(like, {**scalars, **loaded})


def _with(strategy_state: Any, contents: Mapping[str, Any]) -> Any:
    """Return the strategy state with other contents; the argument for a field ``_x`` is ``x``."""
    aliases = {field.name: str(field.alias) for field in attrs.fields(type(strategy_state))}
    return attrs.evolve(strategy_state, **{aliases[name]: content for name, content in contents.items()})


def _on_backend(strategy_state: Any) -> dict[str, str]:
    """Return the fields that are vectors of the backend, with 'weight' or 'position' for what they have an entry of."""
    return {
        field.name: field.metadata[_MARK] for field in attrs.fields(type(strategy_state)) if _MARK in field.metadata
    }


@attrs.frozen(eq=False)
class State:
    """The state of the engine between two steps, without the N values, which the training loop holds.

    Attributes:
        topology: the active positions.
        strategy_states: the state of each strategy that has one.
        clock: the steps and updates that are finished.
    """

    topology: Topology
    strategy_states: StrategyStates
    clock: Clock
