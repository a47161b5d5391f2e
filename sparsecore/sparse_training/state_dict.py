"""The state dict of a sparse training, of plain values and of arrays as the framework saves them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from numpy.typing import NDArray

from sparsecore.engine.arrays import describe
from sparsecore.engine.engine import Engine
from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.position_validation import positions_error, topology_error
from sparsecore.engine.reallocation import RegrowPruned
from sparsecore.engine.saved_states import saved_strategy_state_error
from sparsecore.engine.state import State, dump_strategy_state, load_strategy_state
from sparsecore.engine.topology import Topology
from sparsecore.engine.units import partial_units_error
from sparsecore.errors import InputError, printable
from sparsecore.formats import KEY, STATE_DICT
from sparsecore.plugins.description import default_options, describe_strategies, described

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
"""The errors that entries of other types than expected cause."""

_LONGEST = 100
"""Characters of a value in an error sentence."""

Counts = tuple[int, ...]
Identity = Mapping[str, Any]
"""The facts that must be equal where a state is loaded, as strings, numbers, lists and dicts."""


@attrs.frozen(eq=False)
class SavedArrays:
    """The arrays of a state dict, in the framework's own type.

    Attributes:
        pack: returns a NumPy array as it is saved, in memory of its own.
        unpack: returns a saved array as one of NumPy, and anything else as it is.
    """

    pack: Callable[[NDArray[Any]], Any]
    unpack: Callable[[Any], Any]


def identity_of(engines: EngineGroups, start: GroupStates, sparsity: float | Mapping[str, float]) -> Identity:
    """Return what identifies a training; settings that may differ later, such as ``total_steps``, are not in it.

    Args:
        engines: of the training.
        start: its state before the first step, when strategies that count in an attribute have not counted yet.
        sparsity: the requested sparsity, or that of each tensor.
    """
    layout, first = engines.layout, engines.engines[0]
    return {
        "tensors": {name: list(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)},
        "sparsity": dict(sparsity) if isinstance(sparsity, Mapping) else float(sparsity),
        "seed": first.random.seed,
        "units": described(first.units),
        "regrow_pruned": _regrow_pruned(engines),
        "steps_per_epoch": start.clock.steps_per_epoch,
        "strategies": [one for engine in engines.engines for one in describe_strategies(engine.strategies)],
        "strategies with memory": [name for own in start.states for name in sorted(own.strategy_states)],
        **(_groups_of_identity(engines) if len(engines.engines) > 1 else {}),
    }


def _regrow_pruned(engines: EngineGroups) -> RegrowPruned | list[RegrowPruned]:
    """Return the setting, or that of each group where they differ."""
    settings = [engine.regrow_pruned for engine in engines.engines]
    return settings[0] if all(one == settings[0] for one in settings) else settings


def _groups_of_identity(engines: EngineGroups) -> dict[str, Any]:
    return {
        "groups": [list(own.names) for own in engines.partition.parts],
        "strategies of groups": [len(engine.strategies) for engine in engines.engines],
    }


def dump(
    engines: EngineGroups, state: GroupStates, identity: Identity, start: Counts, arrays: SavedArrays
) -> dict[str, Any]:
    """Return the state dict of a training.

    Args:
        engines: of the training.
        state: to be saved.
        identity: of the training.
        start: the number of active weights of each tensor at the start.
        arrays: how arrays are saved.

    Returns:
        Arrays, numbers, strings, lists and dicts.
    """
    memories = [
        {plugin: _dump_strategy_state(one, engine, arrays) for plugin, one in own.strategy_states.items()}
        for engine, own in zip(engines.engines, state.states, strict=True)
    ]
    return {
        KEY: STATE_DICT.text,
        **copy.deepcopy(dict(identity)),
        "weights": state.topology.size,
        "positions": arrays.pack(state.topology.host_positions),
        "start": list(start),
        "clock": {"step": state.clock.step, "updates": state.clock.updates},
        # one group alone is what most trainings have, and had before there were groups
        **(
            {"memories": memories[0]}
            if len(memories) == 1
            else {"memories of groups": memories, "updates of groups": [own.clock.updates for own in state.states]}
        ),
    }


def load(
    saved: Mapping[str, Any], engines: EngineGroups, like: GroupStates, identity: Identity, arrays: SavedArrays
) -> tuple[GroupStates, Counts]:
    """Return the state that :func:`dump` has written, and the number of weights of each tensor at the start.

    Args:
        saved: the state dict.
        engines: of the same layout and seed.
        like: a state of these engines, for the types of the strategy states and what else is not saved.
        identity: of the training here.
        arrays: how arrays were saved.

    Raises:
        InputError: it is damaged, no such state dict, or of another training, whose first difference is named.
    """
    is_one = len(engines.engines) == 1
    try:
        _check_same(saved, identity, [one for engine in engines.engines for one in default_options(engine.strategies)])
        topology = _load_topology(arrays.unpack(saved["positions"]), saved["weights"], like.topology, engines)
        memories = [saved["memories"]] if is_one else saved["memories of groups"]
        step, updates = (_count(saved["clock"][name], name) for name in ("step", "updates"))
        counted = [updates] if is_one else [_count(one, "updates of groups") for one in saved["updates of groups"]]
        columns = zip(engines.engines, like.states, engines.partition.split(topology), memories, counted, strict=True)
        states = tuple(_load_group(*column, step, arrays) for column in columns)
        start = tuple(_count(weights, "start") for weights in saved["start"])
    except InputError:
        raise
    except MALFORMED as error:
        raise damaged(repr(error)) from error
    if len(start) != len(like.topology.layout):
        raise damaged(f"it holds {len(start)} numbers of weights at the start; there are {len(like.topology.layout)}")
    return GroupStates(topology, states, attrs.evolve(like.clock, step=step, updates=updates)), start


def _load_group(
    engine: Engine,
    like: State,
    topology: Topology,
    memories: Mapping[str, Any],
    updates: int,
    step: int,
    arrays: SavedArrays,
) -> State:
    if set(memories) != set(like.strategy_states):
        raise damaged(f"it has strategy states of {', '.join(map(str, memories)) or 'none'}")
    strategy_states = {
        plugin: _load_strategy_state(plugin, memories[plugin], strategy_state, engine, topology, arrays)
        for plugin, strategy_state in like.strategy_states.items()
    }
    return State(topology, strategy_states, attrs.evolve(like.clock, step=step, updates=updates))


def _check_same(saved: Mapping[str, Any], identity: Identity, defaults: Sequence[Mapping[str, Any]]) -> None:
    if not isinstance(saved, Mapping):
        raise InputError(f"what is to be loaded is no state dict of sparse training but {type(saved).__name__}")
    STATE_DICT.check(saved.get(KEY), "what is to be loaded")
    # strategies that differ explain why their defaults do
    later = {"tensors", "strategies", "regrow_pruned"}
    others = {fact: here for fact, here in identity.items() if fact not in later}
    difference = (
        _tensor_difference(saved.get("tensors"), identity["tensors"])
        or _first_difference({fact: saved.get(fact) for fact in others}, others)
        or _strategy_difference(saved.get("strategies"), identity["strategies"], defaults)
        or _first_difference(saved.get("regrow_pruned"), identity["regrow_pruned"], "regrow_pruned")
    )
    if difference is not None:
        raise InputError(f"the state dict is of another training; the first difference is in {difference}")


def _strategy_difference(
    there: Any, here: Sequence[Mapping[str, Any]], defaults: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return the strategy or option in which two stacks differ first, for an error sentence.

    An option that an earlier version did not have is at its default there.
    """
    if not isinstance(there, list) or not all(isinstance(one, Mapping) for one in there):
        return f"the strategies: {_shown(there)} there"
    classes = [", ".join(str(one.get("class")) for one in stack) or "none" for stack in (there, here)]
    if classes[0] != classes[1]:
        return f"the strategies: {classes[0]} there, {classes[1]} here"
    triples = zip(there, here, defaults, strict=True)
    differences = ((own["class"], _first_difference({**default, **saved}, own)) for saved, own, default in triples)
    return next((f"the strategy {name}, {found}" for name, found in differences if found), None)


def _first_difference(there: Any, here: Any, path: str = "") -> str | None:
    """Return the path at which two plain values differ first: ``schedule.steps: 100 there, 200 here``."""
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        return None if _equal(there, here) else f"{path}: {_shown(there)} there, {_shown(here)} here"
    if there.get("class") != here.get("class"):
        return f"{path}: {_shown(there.get('class'))} there, {_shown(here.get('class'))} here"
    keys = dict.fromkeys([*there, *here])
    inner = ((there.get(key), here.get(key), f"{path}.{key}" if path else key) for key in keys)
    return next(filter(None, (_first_difference(*one) for one in inner)), None)


def _shown(value: Any) -> str:
    """Return a value for an error sentence, on one line and not too long."""
    text = printable(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _equal(there: Any, here: Any) -> bool:
    return bool(there == here) and (isinstance(there, bool) == isinstance(here, bool))


def _tensor_difference(there: Any, here: Mapping[str, list[int]]) -> str | None:
    """Return the tensor in which two networks differ first."""
    if not isinstance(there, Mapping):
        return f"the tensors: {_shown(there)} there"
    for name in [*there, *here]:
        if there.get(name) != here.get(name):
            shapes = [_shown(tensors.get(name, "none")) for tensors in (there, here)]
            return f"the tensor {name!r}: {shapes[0]} there, {shapes[1]} here"
    return "the order of the tensors" if list(there) != list(here) else None


def _count(saved: Any, name: str) -> int:
    if type(saved) is not int or saved < 0:
        raise damaged(f"{name!r} is {_shown(saved)}; expected a whole number of at least 0")
    return saved


def _load_topology(positions: NDArray[Any], weights: int, like: Topology, engines: EngineGroups) -> Topology:
    if positions.shape != (weights,):
        raise damaged(f"it holds {describe(positions)}; expected {weights} positions")
    on_backend = like.arrays.from_numpy(positions)
    error = (
        positions_error(on_backend, like)
        or topology_error(like.at(on_backend), like.layout)
        or _units_error(like.at(on_backend), engines)
    )
    if error:
        raise damaged(f"it holds {error}")
    return like.at(on_backend)


def _units_error(topology: Topology, engines: EngineGroups) -> str | None:
    parts = zip(engines.partition.split(topology), engines.engines, strict=True)
    return next((error for own, engine in parts if (error := partial_units_error(own, engine.unit_map))), None)


def _dump_strategy_state(strategy_state: Any, engine: Engine, arrays: SavedArrays) -> dict[str, Any]:
    scalars, vectors = dump_strategy_state(strategy_state, engine.arrays)
    return {"scalars": scalars, "vectors": {name: arrays.pack(vector) for name, vector in vectors.items()}}


def _load_strategy_state(
    plugin: str, saved: Mapping[str, Any], like: Any, engine: Engine, topology: Topology, arrays: SavedArrays
) -> Any:
    scalars, vectors = saved["scalars"], {name: arrays.unpack(vector) for name, vector in saved["vectors"].items()}
    error = saved_strategy_state_error(like, scalars, vectors, engine.unit_map.units(topology))
    if error:
        raise damaged(f"the strategy state of {plugin!r} has {error}")
    return load_strategy_state(like, scalars, vectors, engine.arrays)


def damaged(what: str) -> InputError:
    """Return the error for a state dict that no training has written."""
    return InputError(printable(f"the state dict of sparse training is damaged: {what}"))
