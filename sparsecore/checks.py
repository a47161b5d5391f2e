"""The engine's promises, checked at every answer of a plugin, in O(N): a broken one names plugin, step and tensor."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from sparsecore._stack import Answer
from sparsecore.arrays import Array, counting_of
from sparsecore.errors import DivergedError, InputError, InvariantError
from sparsecore.grouping import Grouping, trouble_with_units
from sparsecore.layout import Layout
from sparsecore.memory import Memories, shown_memory, trouble_with_memory
from sparsecore.reallocation import Reallocation
from sparsecore.shares import Counts, constant
from sparsecore.soundness import (
    are_common,
    counts_of,
    not_finite,
    order_facts,
    trouble_with_order,
    trouble_with_topology,
    trouble_with_vector,
    where,
)
from sparsecore.topology import Topology
from sparsecore.words import dtype_name, kind


def check_given_topology(topology: Topology, layout: Layout, grouping: Grouping) -> None:
    """Raise an :class:`InputError` unless this is a sound topology of the layout, of whole units."""
    trouble = trouble_with_topology(topology, layout) or trouble_with_units(topology, grouping)
    if trouble:
        raise InputError(f"the topology to start at is {trouble}")


def check_given_values(values: Array, topology: Topology) -> None:
    """Raise an :class:`InputError` unless there is one value a weight."""
    if getattr(values, "shape", None) != (topology.size,):
        raise InputError(f"there is one value a weight, {topology.size}; given {kind(values)}")


def check_trained(values: Array, topology: Topology) -> None:
    """Raise if training has led to a weight that is not finite."""
    if not topology.arrays.all_finite(values):
        raise DivergedError(
            f"training has diverged: {not_finite(values, topology)} holds a weight that is not finite; "
            "a lower learning rate may help"
        )


def check_start(answer: Answer, layout: Layout) -> Topology:
    """A topology of this layout, sorted and within bounds, with no empty tensor."""
    trouble = trouble_with_topology(answer.value, layout)
    if trouble:
        _broken(answer, "initial_topology", f"answered {trouble}")
    topology: Topology = answer.value
    return topology


def check_truth(answer: Answer, hook: str) -> bool:
    """True or false."""
    if not isinstance(answer.value, bool | np.bool_):
        _broken(answer, hook, f"answered {answer.value!r}; expected True or False")
    return bool(answer.value)


def check_target(answer: Answer, survivors: Counts, layout: Layout) -> int:
    """A whole number of weights, at least the survivors and at most the positions."""
    target = answer.value
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        _broken(answer, "target_size", f"answered {kind(target)}; expected a whole number of weights")
    if not survivors.sum() <= target <= layout.size:
        _broken(
            answer,
            "target_size",
            f"answered {target}; {survivors.sum()} weights survive and there are {layout.size} positions",
        )
    return int(target)


def check_survivors(answer: Answer, topology: Topology) -> Array:
    """One bool a weight."""
    mask = answer.value
    if getattr(mask, "shape", None) != (topology.size,) or dtype_name(mask) != "bool":
        _broken(answer, "prune", f"answered {kind(mask)}; expected one bool a weight, {topology.size}")
    return mask


def check_counts(answer: Answer, total: int, room: Counts, layout: Layout) -> Counts:
    """Whole numbers within the room, as many together as were pruned."""
    counts = _as_counts(answer.value)
    if counts is None or counts.shape != room.shape:
        _broken(answer, "allocate", f"answered {kind(answer.value)}; expected one whole number a tensor, {len(room)}")
    for name, count, places in zip(layout.names, counts, room, strict=True):
        if not 0 <= count <= places:
            _broken(answer, "allocate", f"gave {count} weights to {name!r}, which has room for {places}")
    if counts.sum() != total:
        _broken(answer, "allocate", f"gave {counts.sum()} weights in all; {total} are to grow")
    return counts


def check_grown(answer: Answer, occupied: Topology, counts: Counts) -> Array:
    """Ascending positions within bounds, outside ``occupied``, ``counts[i]`` in tensor i."""
    positions, layout, arrays = answer.value, occupied.layout, occupied.arrays
    trouble = trouble_with_vector(positions, occupied)
    if trouble:
        _broken(answer, "grow", f"answered {trouble}")
    grown: Counts = np.zeros(len(layout), np.int64)
    common = 0
    if len(positions):
        # everything is read at once: a device is waited for a single time
        common_count = counting_of(arrays).count(are_common(positions, occupied))
        facts = arrays.to_numpy(arrays.concatenate([order_facts(positions, occupied), common_count]))
        trouble, common = trouble_with_order(positions, occupied, facts), int(facts[-1])
        grown = counts_of(facts[:-1], len(positions))
    if trouble:
        _broken(answer, "grow", f"answered {trouble}")
    for name, count, wanted in zip(layout.names, grown, counts, strict=True):
        if count != wanted:
            _broken(answer, "grow", f"grew {count} weights in {name!r}; {wanted} were allocated")
    if common:
        taken = int(positions[int(arrays.nonzero(are_common(positions, occupied))[0])])
        _broken(answer, "grow", f"grew at {where(taken, layout)}, which is or just was active")
    return positions


def check_values(answer: Answer, hook: str, topology: Topology, like: Array) -> Array:
    """One finite value a weight, in the dtype of ``like``."""
    values = answer.value
    if getattr(values, "shape", None) != (topology.size,) or values.dtype != like.dtype:
        _broken(answer, hook, f"answered {kind(values)}; expected {topology.size} values of {dtype_name(like)}")
    if not topology.arrays.all_finite(values):
        _broken(answer, hook, f"answered a value that is not finite, in {not_finite(values, topology)}")
    return values


def check_first_memories(answers: Sequence[Answer], topology: Topology) -> Memories:
    """The memories at the start."""
    return {answer.plugin: _memory(answer, topology) for answer in answers}


def check_memories(before: Memories, answers: Sequence[Answer], topology: Topology) -> Memories:
    """The memories with the plugins' answers in place, each of the type that it had."""
    after = {answer.plugin: _memory(answer, topology) for answer in answers}
    for answer in answers:
        had = before.get(answer.plugin)
        if type(answer.value) is not type(had):
            expected = "nothing, as it has no initial_memory" if had is None else f"a {type(had).__name__}, as before"
            _broken(answer, "memory", f"remembers a {type(answer.value).__name__}; expected {expected}")
    return {**before, **after}


def _memory(answer: Answer, topology: Topology) -> Any:
    trouble = trouble_with_memory(answer.value, topology.size, len(topology.layout), topology.layout.size)
    if trouble:
        _broken(answer, "memory", f"remembers {trouble}")
    return shown_memory(answer.value, topology.arrays)


def check_reallocation(reallocation: Reallocation) -> None:
    """Raise if, all answers being sound, the whole is not: then a plugin has written into what it was shown."""
    before, after, arrays = reallocation.before, reallocation.after, reallocation.after.arrays
    expected = before.size - reallocation.moved + int(reallocation.grown.sum())
    trouble, not_finite_count = trouble_with_vector(after.positions, after), 0
    if not trouble and after.size:
        lost = counting_of(arrays).count_not_finite(reallocation.values)
        facts = arrays.to_numpy(arrays.concatenate([order_facts(after.positions, after), lost]))
        trouble, not_finite_count = trouble_with_order(after.positions, after, facts), int(facts[-1])
        if not trouble and (counts_of(facts[:-1], after.size) != after.counts).any():
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


def _broken(answer: Answer, hook: str, what: str) -> NoReturn:
    raise InvariantError(f"plugin {answer.plugin!r} broke a promise in {hook!r}: it {what}", hook)
