"""The engine's promises, checked at every answer of a plugin, in O(N): a broken one names plugin, step and tensor."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Counts, constant, counting_of, describe, dtype_name
from sparsecore.engine.hooks import HookResult
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import StrategyStates, readonly_strategy_state, strategy_state_error
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import UnitMap, partial_units_error
from sparsecore.errors import DivergedError, InputError, InvariantError


def topology_error(topology: Any, layout: Layout) -> str | None:
    """Whether it is a topology of this layout, with sound positions and their bounds, and no empty tensor."""
    if not isinstance(topology, Topology) or topology.layout != layout:
        return f"{describe(topology)}, not a topology of the network's layout"
    trouble = positions_error(topology.positions, topology)
    if trouble:
        return trouble
    if topology.at(topology.positions).bounds != topology.bounds:
        return f"a topology with the bounds {topology.bounds}, which are not those of its positions"
    empty = [name for name, count in zip(layout.names, topology.counts, strict=True) if count == 0]
    return f"a topology that left no weight in {', '.join(empty)}" if empty else None


def positions_error(positions: Array, like: Topology) -> str | None:
    """Whether they are a vector of the layout's position dtype, strictly ascending and within bounds."""
    trouble = position_vector_error(positions, like)
    if trouble or not len(positions):
        return trouble
    return position_order_error(positions, like, like.arrays.to_numpy(order_statistics(positions, like)))


def position_vector_error(positions: Array, like: Topology) -> str | None:
    """Whether they are a vector of the layout's position dtype; reads no entry."""
    if len(getattr(positions, "shape", ())) != 1:
        return f"{describe(positions)}; expected a vector of positions"
    if dtype_name(positions) != str(like.layout.position_dtype):
        return f"positions of {dtype_name(positions)}; expected {like.layout.position_dtype}"
    return None


def order_statistics(positions: Array, like: Topology) -> Array:
    """What :func:`position_order_error` asks of positions: int64, on the backend, to be read with other things at once.

    How many are not above the one before, the first, the last, and how many lie below the start of each tensor but
    the first.
    """
    arrays, layout = like.arrays, like.layout
    unordered = counting_of(arrays).count(positions[1:] <= positions[:-1])
    starts = arrays.from_numpy(np.asarray(layout.offsets[1:-1], layout.position_dtype))
    below = arrays.searchsorted(positions, starts, "left")
    ends = [positions[:1], positions[-1:]]
    return arrays.concatenate([unordered, *(arrays.cast(each, np.int64) for each in (*ends, below))])


def position_order_error(positions: Array, like: Topology, facts: NDArray[np.int64]) -> str | None:
    """Whether positions, at least one, are strictly ascending and within bounds, by their :func:`order_statistics`."""
    layout, arrays = like.layout, like.arrays
    count, lowest, highest = map(int, facts[:3])
    if count:
        unordered = arrays.to_numpy(arrays.nonzero(positions[1:] <= positions[:-1]))
        first, second = (int(positions[int(unordered[0]) + i]) for i in (0, 1))
        twice = f"position {first} twice" if first == second else f"position {second} after {first}"
        return f"{twice}; positions ascend and are distinct"
    if lowest < 0 or highest >= layout.size:
        return f"positions {lowest} to {highest}; the layout has 0 to {layout.size - 1}"
    return None


def counts_per_tensor(facts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many of ``size`` ascending positions lie in each tensor, by their :func:`order_statistics`."""
    return np.diff(facts[3:], prepend=0, append=size)


def first_active(positions: Array, occupied: Topology) -> int | None:
    """The lowest of these ascending positions that is active, if any."""
    common = occupied.arrays.nonzero(is_active(positions, occupied))
    return int(positions[int(common[0])]) if len(common) else None


def is_active(positions: Array, occupied: Topology) -> Array:
    """Which of these positions are active: one bool each."""
    arrays = occupied.arrays
    # the nearest active position at or below each; -1 stands below them all
    below = arrays.searchsorted(occupied.positions, positions, "right")
    padded = arrays.concatenate([arrays.zeros_like(occupied.positions, 1) - 1, occupied.positions])
    return arrays.take(padded, below) == positions


def describe_position(position: int, layout: Layout) -> str:
    """A position as people count: within its tensor."""
    tensor = int(np.searchsorted(layout.offsets, position, "right")) - 1
    return f"position {position - layout.offsets[tensor]} of {layout.names[tensor]!r}"


def not_finite(values: Array, topology: Topology) -> str:
    """The first tensor with a value that is not finite, quoted; all tensors where it is none of them."""
    for name in topology.layout.names:
        if not topology.arrays.all_finite(values[topology.slots(name)]):
            return repr(name)
    return "the network"


def check_given_topology(topology: Topology, layout: Layout, unit_map: UnitMap) -> None:
    """Raise an :class:`InputError` unless this is a sound topology of the layout, of whole units."""
    trouble = topology_error(topology, layout) or partial_units_error(topology, unit_map)
    if trouble:
        raise InputError(f"the topology to start at is {trouble}")


def check_given_values(values: Array, topology: Topology) -> None:
    """Raise an :class:`InputError` unless there is one value a weight."""
    if getattr(values, "shape", None) != (topology.size,):
        raise InputError(f"there is one value a weight, {topology.size}; given {describe(values)}")


def check_finite_values(values: Array, topology: Topology) -> None:
    """Raise if training has led to a weight that is not finite."""
    if not topology.arrays.all_finite(values):
        raise DivergedError(
            f"training has diverged: {not_finite(values, topology)} holds a weight that is not finite; "
            "a lower learning rate may help"
        )


def check_initial_topology(answer: HookResult, layout: Layout) -> Topology:
    """A topology of this layout, sorted and within bounds, with no empty tensor."""
    trouble = topology_error(answer.value, layout)
    if trouble:
        _broken(answer, "initial_topology", f"answered {trouble}")
    topology: Topology = answer.value
    return topology


def check_bool(answer: HookResult, hook: str) -> bool:
    """True or false."""
    if not isinstance(answer.value, bool | np.bool_):
        _broken(answer, hook, f"answered {answer.value!r}; expected True or False")
    return bool(answer.value)


def check_target_size(answer: HookResult, survivors: Counts, layout: Layout) -> int:
    """A whole number of weights, at least the survivors and at most the positions."""
    target = answer.value
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        _broken(answer, "target_size", f"answered {describe(target)}; expected a whole number of weights")
    if not survivors.sum() <= target <= layout.size:
        _broken(
            answer,
            "target_size",
            f"answered {target}; {survivors.sum()} weights survive and there are {layout.size} positions",
        )
    return int(target)


def check_survivors(answer: HookResult, topology: Topology) -> Array:
    """One bool a weight."""
    mask: Array = answer.value
    if getattr(mask, "shape", None) != (topology.size,) or dtype_name(mask) != "bool":
        _broken(answer, "prune", f"answered {describe(mask)}; expected one bool a weight, {topology.size}")
    return mask


def check_counts(answer: HookResult, total: int, room: Counts, layout: Layout) -> Counts:
    """Whole numbers within the room, as many together as were pruned."""
    counts = _as_counts(answer.value)
    if counts is None or counts.shape != room.shape:
        _broken(
            answer, "allocate", f"answered {describe(answer.value)}; expected one whole number a tensor, {len(room)}"
        )
    for name, count, places in zip(layout.names, counts, room, strict=True):
        if not 0 <= count <= places:
            _broken(answer, "allocate", f"gave {count} weights to {name!r}, which has room for {places}")
    if counts.sum() != total:
        _broken(answer, "allocate", f"gave {counts.sum()} weights in all; {total} are to grow")
    return counts


def check_grown(answer: HookResult, occupied: Topology, counts: Counts) -> Array:
    """Ascending positions within bounds, outside ``occupied``, ``counts[i]`` in tensor i."""
    positions: Array = answer.value
    layout, arrays = occupied.layout, occupied.arrays
    trouble = position_vector_error(positions, occupied)
    if trouble:
        _broken(answer, "grow", f"answered {trouble}")
    grown: Counts = np.zeros(len(layout), np.int64)
    common = 0
    if len(positions):
        # everything is read at once: a device is waited for a single time
        common_count = counting_of(arrays).count(is_active(positions, occupied))
        facts = arrays.to_numpy(arrays.concatenate([order_statistics(positions, occupied), common_count]))
        trouble, common = position_order_error(positions, occupied, facts), int(facts[-1])
        grown = counts_per_tensor(facts[:-1], len(positions))
    if trouble:
        _broken(answer, "grow", f"answered {trouble}")
    for name, count, wanted in zip(layout.names, grown, counts, strict=True):
        if count != wanted:
            _broken(answer, "grow", f"grew {count} weights in {name!r}; {wanted} were allocated")
    if common:
        taken = int(positions[int(arrays.nonzero(is_active(positions, occupied))[0])])
        _broken(answer, "grow", f"grew at {describe_position(taken, layout)}, which is or just was active")
    return positions


def check_values(answer: HookResult, hook: str, topology: Topology, like: Array) -> Array:
    """One finite value a weight, in the dtype of ``like``."""
    values: Array = answer.value
    if getattr(values, "shape", None) != (topology.size,) or values.dtype != like.dtype:
        _broken(answer, hook, f"answered {describe(values)}; expected {topology.size} values of {dtype_name(like)}")
    if not topology.arrays.all_finite(values):
        _broken(answer, hook, f"answered a value that is not finite, in {not_finite(values, topology)}")
    return values


def check_initial_strategy_states(answers: Sequence[HookResult], topology: Topology) -> StrategyStates:
    """The strategy states at the start."""
    return {answer.plugin: _strategy_state(answer, topology) for answer in answers}


def check_strategy_states(before: StrategyStates, answers: Sequence[HookResult], topology: Topology) -> StrategyStates:
    """The strategy states with the plugins' answers in place, each of the type that it had."""
    after = {answer.plugin: _strategy_state(answer, topology) for answer in answers}
    for answer in answers:
        had = before.get(answer.plugin)
        if type(answer.value) is not type(had):
            expected = (
                "nothing, as it has no initial_strategy_state" if had is None else f"a {type(had).__name__}, as before"
            )
            _broken(answer, "strategy_state", f"remembers a {type(answer.value).__name__}; expected {expected}")
    return {**before, **after}


def _strategy_state(answer: HookResult, topology: Topology) -> Any:
    trouble = strategy_state_error(answer.value, topology.size, len(topology.layout), topology.layout.size)
    if trouble:
        _broken(answer, "strategy_state", f"remembers {trouble}")
    return readonly_strategy_state(answer.value, topology.arrays)


def check_metrics(results: Sequence[HookResult]) -> dict[str, float]:
    """Return finite numbers by the names of plugin and metric, the bottom plugin's first."""
    metrics: dict[str, float] = {}
    for result in reversed(results):
        if not isinstance(result.value, Mapping):
            _broken(result, "metrics", f"answered {describe(result.value)}; expected a dict of numbers by name")
        for name, number in result.value.items():
            if not (isinstance(name, str) and name.isidentifier()):
                _broken(result, "metrics", f"named a metric {name!r}; expected letters, digits and underscores")
            is_number = isinstance(number, int | float | np.integer | np.floating) and not isinstance(number, bool)
            if not (is_number and math.isfinite(number)):
                _broken(result, "metrics", f"answered {name} = {describe(number)}; expected a finite number")
            metrics[f"{result.plugin}.{name}"] = float(number)
    return metrics


def check_reallocation(reallocation: Reallocation) -> None:
    """Raise if, all answers being sound, the whole is not: then a plugin has written into what it was shown."""
    before, after, arrays = reallocation.before, reallocation.after, reallocation.after.arrays
    expected = before.size - reallocation.pruned_count + int(reallocation.grown.sum())
    trouble, not_finite_count = position_vector_error(after.positions, after), 0
    if not trouble and after.size:
        lost = counting_of(arrays).count_not_finite(reallocation.values)
        facts = arrays.to_numpy(arrays.concatenate([order_statistics(after.positions, after), lost]))
        trouble, not_finite_count = position_order_error(after.positions, after, facts), int(facts[-1])
        if not trouble and (counts_per_tensor(facts[:-1], after.size) != after.counts).any():
            trouble = "positions have changed tensors"
    if after.size != expected or len(after.positions) != expected or trouble or not_finite_count:
        raise InvariantError(
            f"an update led from {before.size} weights to {after.size}, not {expected} "
            f"({trouble or 'positions are sound'}); a plugin has changed in place what it was only shown"
        )


def _as_counts(given: Any) -> Counts | None:
    try:
        counts = np.asarray(given)
    except ValueError:
        return None
    return constant(counts.astype(np.int64)) if counts.dtype.kind in "iu" else None


def _broken(answer: HookResult, hook: str, what: str) -> NoReturn:
    raise InvariantError(f"plugin {answer.plugin!r} broke a promise in {hook!r}: it {what}", hook)
