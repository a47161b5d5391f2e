"""Checks that parameters, gradients and optimizer state belong to a training, each with a sentence about what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import jax
import numpy as np

from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_jax.sparse_training.parameters import PyTree, check_leaf, path_name, with_leaves
from sparsecore_jax.sparse_training.tensors import SparseTensors, on_host
from sparsecore_jax.sparse_training.transformation import SparseState, placed_like, sparse_state_of


def found_state(opt_state: PyTree, tensors: SparseTensors) -> tuple[SparseState, bool]:
    """Return the state of the sparse optimizer, and whether MultiSteps accumulates around it.

    Args:
        opt_state: that state, or one that has it.
        tensors: the sparse tensors.

    Raises:
        InputError: there is none, or several, or it is stacked, as one that is replicated for ``jax.pmap``.
    """
    try:
        found = sparse_state_of(opt_state)
    except LookupError as error:
        raise InputError(
            f"opt_state has {error.args[0]} states of a sparse optimizer, and must have one; make it by the init of "
            "the optimizer that sparsify returned"
        ) from None
    _check_not_stacked(found[0], tensors)
    return found


def _check_not_stacked(state: SparseState, tensors: SparseTensors) -> None:
    for one, mask in zip(tensors.leaves, jax.tree.leaves(state.masks), strict=True):
        shape = tuple(mask.shape)
        if len(shape) == len(one.shape) + 1 and shape[1:] == tuple(one.shape):
            raise InputError(
                f"the optimizer's state has {shape[0]} masks of {one.name}, as one that is replicated for jax.pmap; "
                "give the state, the parameters and the gradients of one replica, jax.tree.map(lambda leaf: leaf[0], "
                "opt_state), and replicate what is returned; or shard arrays and use jax.jit in place of jax.pmap"
            )


def check_masks(state: SparseState, tensors: SparseTensors, topology: Topology) -> None:
    """Check that the masks in a state are those of a training.

    Raises:
        InputError: one differs.
    """
    columns = zip(tensors.layout.names, jax.tree.leaves(state.masks), tensors.masks(topology), strict=True)
    for name, there, here in columns:
        if not np.array_equal(on_host(there, np.bool_), here):
            raise InputError(
                f"the optimizer's state has another mask of {name} than the training; both must be of one time: load "
                "the state dict of the training that was saved with it, make a state by optimizer.init(params), or "
                "after updates inside jax.jit call training.synchronize(opt_state)"
            )


def check_count(count: int, expected: int) -> None:
    """Check the number of finished steps in a state.

    Raises:
        InputError: it is not that of the training.
    """
    if count != expected:
        raise InputError(
            f"the optimizer's state has finished {count} steps, and the training knows of {expected}; call "
            "training.update(params, opt_state) after every step of the optimizer, and load the state dict of the "
            "training together with parameters and optimizer state"
        )


def check_updates(state: SparseState, expected: Sequence[int]) -> None:
    """Check that no traced update has moved weights unseen.

    Args:
        state: of the optimizer.
        expected: the numbers of updates of each group of tensors that the training knows of.

    Raises:
        InputError: the state has others.
    """
    there = np.asarray(jax.tree.leaves(state.updates)[0]).tolist()
    if there != list(expected):
        raise InputError(
            f"the optimizer's state has made {sum(there)} updates, and the training knows of {sum(expected)}; after "
            "updates inside jax.jit call training.synchronize(opt_state)"
        )


def check_inactive(params: PyTree, tensors: SparseTensors, values: Any) -> None:
    """Check that inactive weights are zero.

    Args:
        params: the parameters.
        tensors: the sparse tensors.
        values: their values at active positions.

    Raises:
        InputError: some are not.
    """
    nonzero = sum(int(np.count_nonzero(on_host(one, None))) for one in tensors.of_tree(params))
    lost = nonzero - int(np.count_nonzero(values))
    if lost:
        raise InputError(
            f"{lost} weights are nonzero that are not active; give the parameters that sparsify or training.update "
            "returned, or training.masked(params) if these weights may become zero"
        )


def check_tree(noun: str, tree: PyTree, tensors: SparseTensors) -> None:
    """Check that parameters or gradients have the structure of the parameters that became sparse.

    Args:
        noun: what the tree is, for the error sentence.
        tree: whose containers may be others, if the names of the leaves are the same.
        tensors: the sparse tensors.

    Raises:
        InputError: a sparse tensor is missing, or has another name or shape.
    """
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = [leaf for _, leaf in found]
    for one in tensors.leaves:
        check_leaf(noun, leaves, one, one.shape)
        name = path_name(found[one.index][0])
        if not f"/{one.name}".endswith(f"/{name}") and not f"/{name}".endswith(f"/{one.name}"):
            raise InputError(
                f"{noun} has {name!r} at the place of {one.name!r}; give a tree of the same structure as the "
                "parameters that sparsify got"
            )


def refuse_accumulation_around(is_accumulated: bool, engines: EngineGroups) -> None:
    """Refuse MultiSteps around the sparse optimizer where a strategy needs the gradients that it accumulates.

    Raises:
        InputError: it is so.
    """
    if is_accumulated and any(engine.gradient_requests.dense for engine in engines.engines):
        raise InputError(
            "the strategy asks for dense gradients, which optax.MultiSteps accumulates around the sparse optimizer; "
            "let it accumulate inside: sparsify(params, optax.MultiSteps(optimizer, ...))"
        )


def refuse_young_weights(saved: Mapping[str, Any]) -> None:
    """Refuse the state dict of a training in PyTorch in which young weights do not take the optimizer's own steps.

    Args:
        saved: the state dict, of this training otherwise.

    Raises:
        InputError: it is so.
    """
    young = saved.get("young")
    choices = young.get("choices") if isinstance(young, Mapping) else young
    if choices:
        raise InputError(
            f"the state dict is of a training in which young weights get {choices}, and in JAX they take the "
            "optimizer's own steps; go on in PyTorch"
        )


def no_gradient(name: str) -> Any:
    """Raise an error in place of returning a gradient that was not given.

    Raises:
        InputError: always.
    """
    raise InputError(f"the gradient of {name} was not given; training.update takes gradients as its third argument")


def at_step(state: GroupStates, step: int) -> GroupStates:
    """Return a training's state with another number of finished steps."""
    states = tuple(attrs.evolve(one, clock=attrs.evolve(one.clock, step=step)) for one in state.states)
    return attrs.evolve(state, states=states, clock=attrs.evolve(state.clock, step=step))


def placed_numbers(old: Any, new: Any) -> Any:
    """Return whole numbers in place of others of the same shape, on their device."""
    placed = placed_like(np.asarray(new, np.int32), jax.tree.leaves(old)[0])
    return with_leaves(old, [placed])


def as_int(scalar: Any) -> int:
    """Return a number of the device, also one that nnx has wrapped; the host waits for it."""
    return int(np.asarray(jax.tree.leaves(scalar)[0]))
