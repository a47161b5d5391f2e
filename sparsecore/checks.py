"""The engine's promises, checked at every answer of a plugin, in O(N): a broken one names plugin, step and tensor."""

from collections.abc import Sequence

import attrs
import numpy as np

from sparsecore._stack import Answer
from sparsecore.arrays import Array
from sparsecore.errors import DivergedError, InvariantError
from sparsecore.layout import Layout
from sparsecore.memory import Memories, vectors_of
from sparsecore.shares import Counts
from sparsecore.topology import Topology


def check_start(answer: Answer, layout: Layout) -> Topology:
    """A topology of this layout, sorted and within bounds, with no empty tensor."""
    topology: Topology = answer.value
    if not isinstance(topology, Topology) or topology.layout != layout:
        _broken(answer, "initial_topology", f"answered {topology!r}, not a topology of the network's layout")
    _check_positions(answer, "initial_topology", topology)
    empty = [name for name, count in zip(layout.names, topology.counts, strict=True) if count == 0]
    if empty:
        _broken(answer, "initial_topology", f"left no weight in {', '.join(empty)}")
    return topology


def check_survivors(answer: Answer, topology: Topology) -> Array:
    """One bool a weight; a tensor that would be emptied keeps its weights to the caller's judgement."""
    mask = answer.value
    if getattr(mask, "shape", None) != (topology.size,) or "bool" not in str(mask.dtype):
        _broken(answer, "prune", f"answered {_kind(mask)}; expected one bool a weight, {topology.size}")
    return mask


def check_counts(answer: Answer, total: int, room: Counts, topology: Topology) -> Counts:
    """Whole numbers within the room, as many together as were pruned."""
    counts = np.asarray(answer.value)
    if counts.shape != room.shape or counts.dtype.kind not in "iu":
        _broken(answer, "allocate", f"answered {_kind(counts)}; expected one whole number a tensor, {len(room)}")
    counts = counts.astype(np.int64)
    for name, count, places in zip(topology.layout.names, counts, room, strict=True):
        if not 0 <= count <= places:
            _broken(answer, "allocate", f"gave {count} weights to {name!r}, which has room for 0 to {places}")
    if counts.sum() != total:
        _broken(answer, "allocate", f"gave {counts.sum()} weights in all; {total} were pruned, and as many grow")
    return counts


def check_grown(answer: Answer, occupied: Topology, counts: Counts) -> Array:
    """Ascending positions within bounds, outside ``occupied``, ``counts[i]`` in tensor i."""
    positions = answer.value
    if getattr(positions, "shape", None) != (int(counts.sum()),):
        _broken(answer, "grow", f"answered {_kind(positions)}; expected {counts.sum()} positions")
    grown = occupied.at(positions)
    _check_positions(answer, "grow", grown)
    for name, count, wanted in zip(occupied.layout.names, grown.counts, counts, strict=True):
        if count != wanted:
            _broken(answer, "grow", f"grew {count} weights in {name!r}; {wanted} were allocated")
    arrays = occupied.arrays
    # the nearest active position at or below each grown one; -1 stands below them all
    below = arrays.searchsorted(occupied.positions, positions, "right") - 1
    padded = arrays.concatenate([occupied.positions, arrays.zeros_like(occupied.positions, 1) - 1])
    taken = arrays.nonzero(arrays.take(padded, below % len(padded)) == positions)
    if len(taken):
        place = int(arrays.to_numpy(positions)[int(arrays.to_numpy(taken)[0])])
        _broken(answer, "grow", f"grew at {_where(place, occupied)}, which is or just was active")
    return positions


def check_values(answer: Answer, hook: str, topology: Topology, like: Array) -> Array:
    """One finite value a weight, in the dtype of ``like``."""
    values = answer.value
    if getattr(values, "shape", None) != (topology.size,) or values.dtype != like.dtype:
        _broken(answer, hook, f"answered {_kind(values)}; expected {topology.size} values of {like.dtype}")
    if not topology.arrays.all_finite(values):
        _broken(answer, hook, f"answered a value that is not finite, in {_not_finite(values, topology)}")
    return values


def check_memories(before: Memories, answers: Sequence[Answer], topology: Topology) -> Memories:
    """The memories with the plugins' answers in place: attrs values whose per-weight vectors have N entries."""
    for answer in answers:
        if not attrs.has(type(answer.value)):
            _broken(answer, "memory", f"remembers {answer.value!r}; a memory is an attrs value")
        for name, vector in vectors_of(answer.value).items():
            if len(vector) != topology.size:
                _broken(
                    answer, "memory", f"remembers {len(vector)} entries in {name!r}; there are {topology.size} weights"
                )
    return {**before, **{answer.plugin: answer.value for answer in answers}}


def check_trained(values: Array, topology: Topology) -> None:
    """Raise if training has led to a weight that is not finite."""
    if not topology.arrays.all_finite(values):
        raise DivergedError(
            f"training has diverged: {_not_finite(values, topology)} holds a weight that is not finite; "
            "a lower learning rate may help"
        )


def _check_positions(answer: Answer, hook: str, topology: Topology) -> None:
    positions, arrays = topology.positions, topology.arrays
    if positions.dtype != topology.layout.position_dtype and str(topology.layout.position_dtype) not in str(
        positions.dtype
    ):
        _broken(answer, hook, f"answered positions of {positions.dtype}; expected {topology.layout.position_dtype}")
    if not topology.size:
        return
    unordered = arrays.to_numpy(arrays.nonzero(positions[1:] <= positions[:-1]))
    if len(unordered):
        first, second = (int(arrays.to_numpy(positions)[unordered[0] + i]) for i in (0, 1))
        trouble = f"position {first} twice" if first == second else f"position {second} after {first}"
        _broken(answer, hook, f"answered {trouble}; positions ascend and are distinct")
    lowest, highest = int(positions[0]), int(positions[-1])
    if lowest < 0 or highest >= topology.layout.size:
        _broken(
            answer, hook, f"answered positions {lowest} to {highest}; the layout has 0 to {topology.layout.size - 1}"
        )


def _where(position: int, topology: Topology) -> str:
    tensor = int(np.searchsorted(topology.layout.offsets, position, "right")) - 1
    return f"position {position - topology.layout.offsets[tensor]} of {topology.layout.names[tensor]!r}"


def _not_finite(values: Array, topology: Topology) -> str:
    for name in topology.layout.names:
        if not topology.arrays.all_finite(values[topology.slots(name)]):
            return repr(name)
    raise AssertionError("all values are finite")


def _kind(given: object) -> str:
    shape = getattr(given, "shape", None)
    return f"{type(given).__name__} of shape {tuple(shape)}" if shape is not None else repr(given)


def _broken(answer: Answer, hook: str, what: str) -> None:
    raise InvariantError(f"plugin {answer.plugin!r} broke a promise in {hook!r}: it {what}")
