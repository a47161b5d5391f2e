"""The engine's state, as data."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, describe
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError

StrategyStates: TypeAlias = Mapping[str, Any]
"""The strategy state of each plugin that has one, by the plugin's name."""

_MARK = "sparsecore one entry a"


def per_weight() -> Any:
    """An attrs field for a vector with one entry a weight."""
    return attrs.field(metadata={_MARK: "weight"})


def per_position() -> Any:
    """An attrs field for a vector with one entry a position of the dense space; D entries, so only where D must be."""
    return attrs.field(metadata={_MARK: "position"})


def carry_strategy_state(strategy_state: Any, carry: Callable[[Array], Array]) -> Any:
    """The strategy state with every per-weight vector carried along."""
    return _with(strategy_state, {name: carry(vector) for name, vector in vectors_of(strategy_state).items()})


def readonly_strategy_state(strategy_state: Any, arrays: Arrays) -> Any:
    """The strategy state with every vector of the backend not to be written to."""
    vectors = {name: getattr(strategy_state, name) for name in _on_backend(strategy_state)}
    return _with(strategy_state, {name: arrays.readonly(vector) for name, vector in vectors.items()})


def vectors_of(strategy_state: Any) -> dict[str, Array]:
    """The per-weight vectors of a strategy state, by field name."""
    return {
        name: getattr(strategy_state, name) for name, entry in _on_backend(strategy_state).items() if entry == "weight"
    }


def strategy_state_error(strategy_state: Any, weights: int, tensors: int, positions: int) -> str | None:
    """Why this can be no strategy state for so many of each, as the end of a sentence; None where it can."""
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
"""What to make of an unmarked vector, by whether it has an entry a weight, and an entry a position."""

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
    """The strategy state as JSON-able scalars and host arrays, by field name."""
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
    """The strategy state that :func:`dump_strategy_state` wrote, as a value of the type of ``like``."""
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
    """The strategy state with other contents; a field ``_x`` is ``x`` to its class."""
    aliases = {field.name: str(field.alias) for field in attrs.fields(type(strategy_state))}
    return attrs.evolve(strategy_state, **{aliases[name]: content for name, content in contents.items()})


def _on_backend(strategy_state: Any) -> dict[str, str]:
    """The fields that are vectors of the backend: what each has one entry of, 'weight' or 'position'."""
    return {
        field.name: field.metadata[_MARK] for field in attrs.fields(type(strategy_state)) if _MARK in field.metadata
    }


@attrs.frozen(eq=False)
class State:
    """All that the engine knows at a moment, but for the values, which the backend's learner holds.

    Attributes:
        topology: the active positions.
        strategy_states: what each strategy remembers.
        clock: the time.
    """

    topology: Topology
    strategy_states: StrategyStates
    clock: Clock
