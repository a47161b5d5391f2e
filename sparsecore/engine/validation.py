"""The engine's promises, checked on every result of a hook in O(N); a broken one names plugin, hook and tensor.

An argument ``result`` is what a plugin returned, of any type; what it is compared with is sound.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Counts, constant, counting_of, describe, dtype_name, host_of
from sparsecore.engine.hooks import HookResult
from sparsecore.engine.host_parts import count_common
from sparsecore.engine.position_validation import (
    counts_per_tensor,
    describe_position,
    is_active,
    order_statistics,
    position_order_error,
    position_vector_error,
    topology_error,
)
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import StrategyStates, readonly_strategy_state, strategy_state_error
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import UnitMap, partial_units_error
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.errors import DivergedError, InputError, InvariantError


def not_finite(values: Array, topology: Topology) -> str:
    """Describe where a value is not finite: the first such tensor, or the network where it is no single one.

    Args:
        values: (N,), of which at least one is NaN or infinite.
        topology: the positions that they belong to.

    Returns:
        The tensor's name in quotes, or 'the network'.
    """
    for name in topology.layout.names:
        if not topology.arrays.all_finite(values[topology.slots(name)]):
            return repr(name)
    return "the network"


def check_given_topology(topology: Topology, layout: Layout, unit_map: UnitMap) -> None:
    """Check a topology that a caller gives.

    Raises:
        InputError: it is of another layout, not sound, or has parts of units.
    """
    error = topology_error(topology, layout) or partial_units_error(topology, unit_map)
    if error:
        raise InputError(f"the topology to start at is {error}")


def check_given_values(values: Array, topology: Topology) -> None:
    """Check the shape of values that a caller gives.

    Raises:
        InputError: there is not one value a weight.
    """
    if getattr(values, "shape", None) != (topology.size,):
        raise InputError(f"there is one value a weight, {topology.size}; given {describe(values)}")


def check_finite_values(values: Array, topology: Topology, or_else: str = "") -> None:
    """Check that training has kept all values finite.

    Args:
        values: (N,).
        topology: the positions that they belong to.
        or_else: another cause, as the end of the sentence.

    Raises:
        DivergedError: a value is not finite; the message names its tensor.
    """
    if not topology.arrays.all_finite(values):
        raise DivergedError(
            f"training has diverged: {not_finite(values, topology)} holds a weight that is not finite; "
            f"a lower learning rate may help{or_else}"
        )


def check_initial_topology(result: HookResult, layout: Layout) -> Topology:
    """Return the topology, if it is of this layout, with sound positions and no empty tensor.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    error = topology_error(result.value, layout)
    if error:
        _broken(result, "initial_topology", f"returned {error}")
    topology: Topology = result.value
    return topology


def check_bool(result: HookResult, hook: str) -> bool:
    """Return the result, if it is True or False.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    if not isinstance(result.value, bool | np.bool_):
        _broken(result, hook, f"returned {result.value!r}; expected True or False")
    return bool(result.value)


def check_young_weights(result: HookResult) -> YoungWeights:
    """Return what a plugin says young weights get."""
    if not isinstance(result.value, YoungWeights):
        _broken(result, "young_weights", f"{describe(result.value)}; expected a YoungWeights")
    factors = np.asarray(result.value.damping(np.arange(1, result.value.warm_up + 2)))
    if not ((factors >= 0) & (factors <= 1)).all():
        _broken(result, "young_weights", f"{result.value}, whose damping is {describe(factors)}; expected 0 to 1")
    return result.value


def check_target_size(result: HookResult, survivors: Counts, layout: Layout) -> int:
    """Return the target, if it is a whole number of weights, at least the survivors and at most the positions.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    target = result.value
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        _broken(result, "target_size", f"returned {describe(target)}; expected a whole number of weights")
    if not survivors.sum() <= target <= layout.size:
        _broken(
            result,
            "target_size",
            f"returned {target}; {survivors.sum()} weights survive and there are {layout.size} positions",
        )
    return int(target)


def check_survivors(result: HookResult, hook: str, topology: Topology) -> Array:
    """Return the mask, if it is one bool a weight.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    mask: Array = result.value
    if getattr(mask, "shape", None) != (topology.size,) or dtype_name(mask) != "bool":
        _broken(result, hook, f"returned {describe(mask)}; expected one bool a weight, {topology.size}")
    return mask


def check_forward_view(result: HookResult, topology: Topology) -> tuple[Array, Counts]:
    """Return which weights take part, and how many of each tensor, if each tensor has one that does.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    visible = check_survivors(result, "forward_view", topology)
    counts = counting_of(topology.arrays).count_each(visible, topology.bounds)
    for name, count in zip(topology.layout.names, counts, strict=True):
        if not count:
            _broken(result, "forward_view", f"lets no weight of {name!r} take part; expected at least one a tensor")
    return visible, constant(counts)


def check_counts(result: HookResult, total: int, room: Counts, layout: Layout) -> Counts:
    """Return the counts, if they are whole numbers within the room, ``total`` together.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    counts = _as_counts(result.value)
    if counts is None or counts.shape != room.shape:
        _broken(
            result, "allocate", f"returned {describe(result.value)}; expected one whole number a tensor, {len(room)}"
        )
    for name, count, free in zip(layout.names, counts, room, strict=True):
        if not 0 <= count <= free:
            _broken(result, "allocate", f"gave {count} weights to {name!r}, which has room for {free}")
    if counts.sum() != total:
        _broken(result, "allocate", f"gave {counts.sum()} weights in all; {total} are to grow")
    return counts


def check_grown(result: HookResult, occupied: Topology, counts: Counts) -> Array:
    """Return the positions, if they ascend, are in range and outside ``occupied``, ``counts[i]`` in tensor i.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    positions: Array = result.value
    layout, arrays = occupied.layout, occupied.arrays
    error = position_vector_error(positions, occupied)
    if error:
        _broken(result, "grow", f"returned {error}")
    grown: Counts = np.zeros(len(layout), np.int64)
    active_count = 0
    if len(positions):
        statistics, active_count = _growth_statistics(positions, occupied)
        error = position_order_error(positions, occupied, statistics)
        grown = counts_per_tensor(statistics, len(positions))
    if error:
        _broken(result, "grow", f"returned {error}")
    for name, count, wanted in zip(layout.names, grown, counts, strict=True):
        if count != wanted:
            _broken(result, "grow", f"grew {count} weights in {name!r}; {wanted} were allocated")
    if active_count:
        first = int(positions[int(arrays.nonzero(is_active(positions, occupied))[0])])
        _broken(result, "grow", f"grew at {describe_position(first, layout)}, which is or just was active")
    return positions


def _growth_statistics(positions: Array, occupied: Topology) -> tuple[NDArray[np.int64], int]:
    """Return the order statistics of positions, and how many are occupied if they ascend."""
    arrays, host = occupied.arrays, host_of(occupied.arrays)
    statistics = order_statistics(positions, occupied)
    if host is not None:
        known = arrays.to_numpy(statistics)
        if position_order_error(positions, occupied, known):
            return known, 0
        counts, whole = counts_per_tensor(known, len(positions)), arrays.to_numpy(positions)
        return known, count_common(occupied.host_positions, occupied.bounds, whole, counts, host)
    # each ascends, so that what is in both stands side by side; a stable sort merges two ascending parts
    merged = arrays.sort(arrays.concatenate([occupied.positions, positions]))
    active = counting_of(arrays).count(merged[1:] == merged[:-1])
    # everything is read at once: a device is waited for a single time
    read = arrays.to_numpy(arrays.concatenate([statistics, active]))
    return read[:-1], int(read[-1])


def check_values(result: HookResult, hook: str, topology: Topology, like: Array) -> Array:
    """Return the values, if there is one finite value a weight, in the dtype of ``like``.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    values = check_vector(result, hook, topology, like)
    if not topology.arrays.all_finite(values):
        _broken(result, hook, f"returned a value that is not finite, in {not_finite(values, topology)}")
    return values


def check_vector(result: HookResult, hook: str, topology: Topology, like: Array) -> Array:
    """Return the values, if there is one a weight, finite or not, in the dtype of ``like``; waits for no device.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    values: Array = result.value
    if getattr(values, "shape", None) != (topology.size,) or values.dtype != like.dtype:
        _broken(result, hook, f"returned {describe(values)}; expected {topology.size} values of {dtype_name(like)}")
    return values


def check_momentum(result: HookResult, grown: Topology) -> Array:
    """Return the momentum, if it is one finite number for each grown weight.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    momentum: Array = result.value
    if getattr(momentum, "shape", None) != (grown.size,):
        _broken(result, "initial_momentum", f"returned {describe(momentum)}; expected {grown.size} numbers")
    if not grown.arrays.all_finite(momentum):
        _broken(result, "initial_momentum", f"returned what is not finite, in {not_finite(momentum, grown)}")
    return momentum


def check_initial_strategy_states(results: Sequence[HookResult], topology: Topology) -> StrategyStates:
    """Return the strategy states at the start, by plugin, if each can be saved and carried along.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    return {result.plugin: _strategy_state(result, topology) for result in results}


def check_strategy_states(before: StrategyStates, results: Sequence[HookResult], topology: Topology) -> StrategyStates:
    """Return the strategy states with the new ones in place, if each is of the type that it was before.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    after = {result.plugin: _strategy_state(result, topology) for result in results}
    for result in results:
        old = before.get(result.plugin)
        if type(result.value) is not type(old):
            as_before = f"a {type(old).__name__}, as before"
            expected = "nothing, as it has no initial_strategy_state" if old is None else as_before
            _broken(result, "strategy_state", f"returned a {type(result.value).__name__}; expected {expected}")
    return {**before, **after}


def _strategy_state(result: HookResult, topology: Topology) -> Any:
    error = strategy_state_error(result.value, topology.size, len(topology.layout), topology.layout.size)
    if error:
        _broken(result, "strategy_state", f"returned {error}")
    return readonly_strategy_state(result.value, topology.arrays)


def check_metrics(results: Sequence[HookResult]) -> dict[str, float]:
    """Return the metrics by the names of plugin and metric, bottom plugin first, if all are finite numbers.

    Raises:
        InvariantError: otherwise; the message names plugin and hook.
    """
    metrics: dict[str, float] = {}
    for result in reversed(results):
        if not isinstance(result.value, Mapping):
            _broken(result, "metrics", f"returned {describe(result.value)}; expected a dict of numbers by name")
        for name, number in result.value.items():
            if not (isinstance(name, str) and name.isidentifier()):
                _broken(result, "metrics", f"named a metric {name!r}; expected letters, digits and underscores")
            is_number = isinstance(number, int | float | np.integer | np.floating) and not isinstance(number, bool)
            if not (is_number and math.isfinite(number)):
                _broken(result, "metrics", f"returned {name} = {describe(number)}; expected a finite number")
            metrics[f"{result.plugin}.{name}"] = float(number)
    return metrics


def check_reallocation(reallocation: Reallocation) -> None:
    """Check the whole of a reallocation whose parts were sound when they were returned.

    Raises:
        InvariantError: it is not sound: a plugin has written into an array that it was only to read.
    """
    before, after, arrays = reallocation.before, reallocation.after, reallocation.after.arrays
    expected = before.size - reallocation.pruned_count + int(reallocation.grown.sum())
    error, not_finite_count = position_vector_error(after.positions, after), 0
    if not error and after.size:
        lost = counting_of(arrays).count_not_finite(reallocation.values)
        statistics = arrays.to_numpy(arrays.concatenate([order_statistics(after.positions, after), lost]))
        error, not_finite_count = position_order_error(after.positions, after, statistics), int(statistics[-1])
        if not error and (counts_per_tensor(statistics[:-1], after.size) != after.counts).any():
            error = "positions have changed tensors"
    if after.size != expected or len(after.positions) != expected or error or not_finite_count:
        raise InvariantError(
            f"an update led from {before.size} weights to {after.size}, not {expected} "
            f"({error or 'positions are sound'}); a plugin has changed in place what it was only to read"
        )


def _as_counts(given: Any) -> Counts | None:
    try:
        counts = np.asarray(given)
    except ValueError:
        return None
    return constant(counts.astype(np.int64)) if counts.dtype.kind in "iu" else None


def _broken(result: HookResult, hook: str, what: str) -> NoReturn:
    raise InvariantError(f"plugin {result.plugin!r} broke a promise in {hook!r}: it {what}", hook)
