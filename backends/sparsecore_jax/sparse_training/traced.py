"""Updates of the strategy inside ``jax.jit``: decided by XLA, with the numbers and the random draws of the engine.

The order of weights is that of the bits of their magnitudes, since XLA flushes denormal numbers to zero. Random draws
are NumPy's, as everywhere: a callback of the host draws them in the steps of updates.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.fixed_updates import DueUpdates, FixedUpdates
from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.state import State
from sparsecore.errors import InputError
from sparsecore_jax.sparse_training.moves import Mover
from sparsecore_jax.sparse_training.orientation import Orientation
from sparsecore_jax.sparse_training.parameters import PyTree, with_leaves
from sparsecore_jax.sparse_training.tensors import SparseTensors
from sparsecore_jax.sparse_training.transformation import NEVER, SparseState


@attrs.frozen(eq=False)
class TracedGroup:
    """The updates of one group of tensors.

    Attributes:
        updates: of its engine.
        due: the steps after which they are due.
        state: before the first of them.
        tensors: the indices of its tensors among all sparse ones.
    """

    updates: FixedUpdates
    due: DueUpdates
    state: State
    tensors: tuple[int, ...]


def traced_groups(engines: EngineGroups, state: GroupStates) -> tuple[TracedGroup, ...]:
    """Return the updates of a training that can be traced.

    Args:
        engines: of the training.
        state: the present one.

    Raises:
        InputError: a strategy's updates cannot be traced, or the run has no known end.
    """
    groups = []
    for engine, own, layout in zip(engines.engines, state.states, engines.partition.parts, strict=True):
        if own.strategy_states:
            raise InputError(
                f"the strategy {next(iter(own.strategy_states))!r} has a state that its updates change, and cannot be "
                "traced inside jax.jit; it moves weights between jitted steps, by training.update()"
            )
        updates = FixedUpdates.of(engine)
        indices = tuple(engines.layout.index(name) for name in layout.names)
        groups.append(TracedGroup(updates, updates.due(own), own, indices))
    return tuple(groups)


def traced_update(
    groups: Sequence[TracedGroup],
    tensors: SparseTensors,
    mover: Mover,
    params: PyTree,
    state: SparseState,
    gradients: Sequence[Any] | None,
) -> tuple[PyTree, SparseState]:
    """Return parameters and state after the updates that are due; traced.

    Args:
        groups: of the training.
        tensors: the sparse tensors.
        mover: carries the optimizer's state along.
        params: after a step.
        state: after it.
        gradients: of the step, one for each sparse tensor; None where no weight grows by them.

    Raises:
        InputError: weights grow by gradients, and there are none.
    """
    for number, group in enumerate(groups):
        if not len(group.due.steps):
            continue
        if group.updates.by_gradient and gradients is None:
            raise InputError(
                "the strategy needs the gradients of the step: give them to the update as the third argument"
            )
        steps = jnp.asarray(group.due.steps, jnp.int32)
        done = jax.tree.leaves(state.updates)[0][number] - group.state.clock.updates
        # the count stays while gradients are accumulated or rejected, and the update of a step is made once
        is_due = jnp.any(steps == state.count) & (done <= jnp.sum(steps < state.count))
        change = partial(_changed, number, group, tensors, mover, gradients)
        params, state = jax.lax.cond(is_due, change, lambda *unchanged: unchanged, params, state)
    return params, state._replace(replaced_step=with_leaves(state.replaced_step, [_replaced(groups, state)]))


def _replaced(groups: Sequence[TracedGroup], state: SparseState) -> Any:
    """Return the number of the next step if an update replaces it, else -1."""
    steps = np.unique(np.concatenate([group.due.steps[group.due.replaces] for group in groups])).astype(np.int32)
    following = state.count + 1
    return jnp.where(jnp.any(jnp.asarray(steps) == following), following, NEVER).astype(jnp.int32)


def _changed(
    number: int,
    group: TracedGroup,
    tensors: SparseTensors,
    mover: Mover,
    gradients: Sequence[Any] | None,
    params: PyTree,
    state: SparseState,
) -> tuple[PyTree, SparseState]:
    """Return parameters and state after an update of one group."""
    orientations = [tensors.orientations[index] for index in group.tensors]
    old_masks = jax.tree.leaves(state.masks)
    arrays = tensors.of_tree(params)
    masks = [_turned(old_masks[index], one) for index, one in zip(group.tensors, orientations, strict=True)]
    weights = [_turned(arrays[index], one) for index, one in zip(group.tensors, orientations, strict=True)]
    classes = [_classes(mask, own) for mask, own in zip(masks, weights, strict=True)]
    signs = jnp.stack([jnp.stack([one.sum() for one in own]) for own in classes]).astype(jnp.int32)
    numbers = _asked(group, jax.tree.leaves(state.updates)[0][number], state.count, signs)
    kept, after = list(old_masks), list(old_masks)
    for place, (index, orientation) in enumerate(zip(group.tensors, orientations, strict=True)):
        survives = _survivors(group, masks[place], weights[place], classes[place], numbers.pruned[place])
        occupied = survives if group.updates.regrow_pruned else masks[place]
        if group.updates.by_gradient and gradients is not None:
            keys = _gradient_keys(_turned(gradients[index], orientation), occupied)
            grown = _smallest(keys, numbers.grown[place])
        else:
            rank = jnp.cumsum(~occupied) - 1
            grown = ~occupied & numbers.drawn[place][jnp.clip(rank, 0)]
        survivors = survives | (masks[place] & grown) if group.updates.regrow_pruned == "keep" else survives
        kept[index], after[index] = (_turned_back(one, orientation) for one in (survivors, survives | grown))
    params, inner_state, moved = mover.traced_move(params, state.inner_state, kept, after, None, None)
    updates = jax.tree.leaves(state.updates)[0]
    state = state._replace(
        inner_state=inner_state,
        masks=with_leaves(state.masks, moved),
        updates=with_leaves(state.updates, [updates.at[number].add(1)]),
    )
    return params, state


def synchronized(
    engines: EngineGroups,
    groups: Sequence[TracedGroup],
    state: GroupStates,
    tensors: SparseTensors,
    masks: Sequence[NDArray[np.bool_]],
    step: int,
    updates: Sequence[int],
) -> GroupStates:
    """Return the state of a training after traced updates.

    Args:
        engines: of the training.
        groups: whose updates were traced.
        state: before them.
        tensors: the sparse tensors.
        masks: of each, in its leaf's shape.
        step: the number of finished steps.
        updates: the numbers of finished updates of each group.
    """
    flat = np.concatenate([one.flat(mask) for one, mask in zip(tensors.orientations, masks, strict=True)])
    layout = state.topology.layout
    topology = state.topology.at(np.flatnonzero(flat).astype(layout.position_dtype))
    states = tuple(
        State(own, one.strategy_states, attrs.evolve(one.clock, step=step, updates=int(done)))
        for own, one, done in zip(engines.partition.split(topology), state.states, updates, strict=True)
    )
    due = {int(one) for group in groups for one in group.due.steps if state.clock.step < one <= step}
    clock = attrs.evolve(state.clock, step=step, updates=state.clock.updates + len(due))
    return GroupStates(topology, states, clock)


@attrs.frozen(eq=False)
class _Numbers:
    """The numbers of an update, traced.

    Attributes:
        pruned: weights that are zero, positive and negative, (T, 3).
        grown: (T,).
        drawn: for each tensor whether the free position of a rank is drawn, (D_i,); empty where none is drawn.
    """

    pruned: Any
    grown: Any
    drawn: Sequence[Any]


def _asked(group: TracedGroup, updates: Any, step: Any, signs: Any) -> _Numbers:
    """Return what the host says of an update."""
    sizes = group.state.topology.layout.sizes
    own = group.updates
    drawn_sizes = [] if own.by_gradient else list(sizes)

    def on_host(updates: Any, step: Any, signs: Any) -> tuple[NDArray[Any], ...]:
        clock = attrs.evolve(group.state.clock, step=int(step), updates=int(updates))
        numbers = own.numbers(clock, np.asarray(signs).astype(np.int64))
        masks = [np.zeros(size, np.bool_) for size in drawn_sizes]
        for mask, ranks in zip(masks, own.ranks(clock, numbers) if masks else (), strict=True):
            mask[ranks] = True
        return (numbers.pruned.astype(np.int32), numbers.grown.astype(np.int32), *masks)

    shapes = [
        jax.ShapeDtypeStruct(signs.shape, jnp.int32),
        jax.ShapeDtypeStruct((len(sizes),), jnp.int32),
        *(jax.ShapeDtypeStruct((size,), jnp.bool_) for size in drawn_sizes),
    ]
    pruned, grown, *drawn = jax.pure_callback(on_host, tuple(shapes), updates, step, signs, vmap_method="sequential")
    return _Numbers(pruned, grown, drawn)


def _turned(array: Any, orientation: Orientation) -> Any:
    """Return the entries in the engine's order, (D_i,)."""
    return jnp.transpose(array, orientation.axes).reshape(-1)


def _turned_back(flat: Any, orientation: Orientation) -> Any:
    """Return an array of the leaf's shape from entries in the engine's order."""
    turned = flat.reshape([orientation.shape[axis] for axis in orientation.axes])
    return jnp.transpose(turned, tuple(map(int, np.argsort(orientation.axes))))


def _classes(mask: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Return which active weights are zero, positive and negative; a NaN counts by its sign bit."""
    is_zero, is_negative = _magnitudes(weights) == 0, jnp.signbit(weights)
    return mask & is_zero, mask & ~is_zero & ~is_negative, mask & ~is_zero & is_negative


def _magnitudes(array: Any) -> Any:
    """Return whole numbers in the order of the magnitudes, of 32 or 64 bits; NaN is above all."""
    narrow = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[array.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(array, narrow)
    sign = narrow(1 << (8 * array.dtype.itemsize - 1))
    wide = jnp.int64 if array.dtype.itemsize == 8 else jnp.int32
    return (bits & (sign - narrow(1))).astype(wide)


def _survivors(group: TracedGroup, mask: Any, weights: Any, classes: Sequence[Any], pruned: Any) -> Any:
    """Return which active weights of a tensor stay."""
    magnitudes = _magnitudes(weights)
    highest = jnp.iinfo(magnitudes.dtype).max
    if group.updates.by_sign:
        lost = [_smallest(jnp.where(own, magnitudes, highest), pruned[number]) for number, own in enumerate(classes)]
        survives = mask & ~(lost[0] | lost[1] | lost[2])
    else:
        survives = mask & ~_smallest(jnp.where(mask, magnitudes, highest), pruned.sum())
    # a tensor that would lose all its weights keeps its largest
    largest = jnp.argmax(jnp.where(mask, magnitudes, -1))
    return jnp.where(jnp.any(survives), survives, (jnp.arange(len(mask)) == largest) & mask)


def _gradient_keys(gradient: Any, occupied: Any) -> Any:
    """Return the smallest numbers for free positions with the largest gradient, and the largest for occupied ones."""
    magnitudes = _magnitudes(gradient)
    keys = jnp.where(jnp.isnan(gradient), 1, -magnitudes)
    return jnp.where(occupied, jnp.iinfo(keys.dtype).max, keys)


def _smallest(keys: Any, count: Any) -> Any:
    """Return which entries are the ``count`` smallest, as bools; of equal ones the first."""
    last = jnp.sort(keys)[jnp.clip(count - 1, 0)]
    is_below, is_tied = keys < last, keys == last
    chosen = is_below | (is_tied & (jnp.cumsum(is_tied) <= count - is_below.sum()))
    return chosen & (count > 0)
