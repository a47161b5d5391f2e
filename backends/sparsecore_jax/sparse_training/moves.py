"""Carries parameters and optimizer state along when weights move, on the device; one compilation for all updates."""

from contextlib import nullcontext
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore_jax.sparse_training.parameters import PyTree, with_leaves
from sparsecore_jax.sparse_training.state_entries import StateEntries
from sparsecore_jax.sparse_training.tensors import SparseTensors
from sparsecore_jax.sparse_training.transformation import SparseState, placed_like, zero_unless


@final
class Mover:
    """Moves the weights of a training.

    Args:
        optimizer: the user's, whose ``init`` gives the state of weights that have just grown.
        tensors: the sparse tensors.
        entries: what the optimizer's state has of single weights.
    """

    def __init__(self, optimizer: Any, tensors: SparseTensors, entries: StateEntries) -> None:
        self._init = optimizer.init
        self._tensors = tensors
        self._entries = entries
        self._moved = jax.jit(self.traced_move)

    def move(
        self, params: PyTree, state: SparseState, reallocation: Reallocation, values: Any
    ) -> tuple[PyTree, SparseState]:
        """Return parameters and state after an update.

        Args:
            params: before it.
            state: before it.
            reallocation: the update.
            values: the N values before the update that the parameters have.
        """
        tensors, arrays = self._tensors, reallocation.before.arrays
        is_changed = _changes_values(reallocation, values)
        momentum = reallocation.momentum
        grown = reallocation.grown_weights
        return self._applied(
            params,
            state,
            kept=tensors.masks_of(reallocation.before, arrays.to_numpy(reallocation.survives)),
            masks=tensors.masks(reallocation.after),
            values=tensors.dense(reallocation.after, arrays.to_numpy(reallocation.values)) if is_changed else None,
            momentum=None if momentum is None else tensors.dense(grown, np.asarray(momentum, tensors.dtype)),
        )

    def put(self, params: PyTree, state: SparseState, topology: Topology, values: Any) -> tuple[PyTree, SparseState]:
        """Return parameters with other values at the same positions.

        Args:
            params: whose values are replaced.
            state: of the optimizer, which stays as it is.
            topology: the active positions.
            values: one for each.
        """
        masks = self._tensors.masks(topology)
        return self._applied(params, state, masks, masks, self._tensors.dense(topology, values), None)

    def _applied(
        self, params: PyTree, state: SparseState, kept: Any, masks: Any, values: Any, momentum: Any
    ) -> tuple[PyTree, SparseState]:
        # where the loop computes in double precision within a context, and this call is outside of it
        is_double = any(leaf.dtype == np.float64 for leaf in jax.tree.leaves((params, state.inner_state)))
        with jax.enable_x64(True) if is_double else nullcontext():
            moved = self._moved(params, state.inner_state, kept, masks, values, momentum)
            before = params, state.inner_state, jax.tree.leaves(state.masks)
            params, inner_state, masks = jax.tree.map(_placed_as, moved, before)
        return params, state._replace(inner_state=inner_state, masks=with_leaves(state.masks, masks))

    def traced_move(
        self, params: PyTree, inner_state: PyTree, kept: Any, masks: Any, values: Any, momentum: Any
    ) -> tuple[PyTree, PyTree, Any]:
        """Return parameters, inner state and masks after weights have moved; traced.

        Args:
            params: before.
            inner_state: of the user's optimizer, before.
            kept: for each sparse tensor where weights keep value and state.
            masks: the active weights after.
            values: dense arrays of all values after; None where survivors keep theirs and grown weights are zero.
            momentum: dense arrays of the momentum of grown weights; None where it is that of fresh state.
        """
        leaves = jax.tree.leaves(params)
        for tensor, one in enumerate(self._tensors.leaves):
            old = leaves[one.index]
            new = jnp.where(kept[tensor], old, 0) if values is None else values[tensor]
            leaves[one.index] = like(new, old)
        moved = with_leaves(params, leaves)
        fresh, state = jax.tree.leaves(self._init(moved)), jax.tree.leaves(inner_state)
        for index, tensor in self._entries.owners.items():
            old = state[index]
            grown = jnp.where(masks[tensor], fresh[index], 0)
            state[index] = like(jnp.where(kept[tensor], old, grown), old)
        for tensor, index in self._entries.momentum.items() if momentum is not None else ():
            is_grown = masks[tensor] & ~kept[tensor]
            state[index] = like(jnp.where(is_grown, momentum[tensor], state[index]), state[index])
        placed = [like(mask, leaves[one.index]) for mask, one in zip(masks, self._tensors.leaves, strict=True)]
        return moved, with_leaves(inner_state, state), [mask.astype(jnp.bool_) for mask in placed]


def started(params: PyTree, tensors: SparseTensors, topology: Topology, values: Any) -> PyTree:
    """Return the parameters before the first step: zero at inactive positions.

    Args:
        params: as they were given.
        tensors: the sparse tensors.
        topology: the active positions.
        values: one for each, where a strategy has changed them; None to keep those of the parameters.
    """
    leaves = jax.tree.leaves(params)
    hosts = tensors.masks(topology) if values is None else tensors.dense(topology, values)
    for one, host in zip(tensors.leaves, hosts, strict=True):
        old = leaves[one.index]
        placed = placed_like(host, old)
        leaves[one.index] = zero_unless(placed, old) if values is None else like(placed, old)
    return with_leaves(params, leaves)


def like(new: Any, old: Any) -> Any:
    """Return an array in the type of another one.

    Args:
        new: the entries.
        old: gives the type.
    """
    return jnp.asarray(new).astype(old.dtype)


def _placed_as(new: Any, old: Any) -> Any:
    """Return an array on the devices of another one, so that a step that was compiled for that takes it."""
    is_elsewhere = getattr(old, "committed", False) and new.sharding != old.sharding
    return jax.device_put(new, old.sharding) if is_elsewhere else new


def _changes_values(reallocation: Reallocation, values: Any) -> bool:
    """Return whether survivors have other values than the parameters, or grown weights other than zero."""
    carried = reallocation.carry(values)
    return not np.array_equal(np.asarray(carried), np.asarray(reallocation.values))
