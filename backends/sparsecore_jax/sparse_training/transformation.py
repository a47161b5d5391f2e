"""The optax transformation that keeps inactive weights and their moments at zero; its masks are data in its state."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs
import jax
import jax.numpy as jnp
import optax

from sparsecore.errors import InputError
from sparsecore_jax.sparse_training.parameters import PyTree, check_leaf, with_leaves
from sparsecore_jax.sparse_training.state_entries import StateEntries
from sparsecore_jax.sparse_training.tensors import SparseTensors

NEVER = -1
"""The number of no step."""


class SparseState(NamedTuple):
    """The state of a sparse training's optimizer.

    Attributes:
        inner_state: of the user's optimizer, zero at inactive positions where it has one entry a weight.
        masks: bool, one for each sparse tensor in the order of the parameters, True for active weights.
        count: the number of finished steps, int32.
        replaced_step: the number of the step that an update of the strategy replaces, int32; -1 for none.
        updates: the numbers of finished updates of each group of tensors, int32.
        gradients: the mean of the dense gradients that are being accumulated, one for each sparse tensor, where
            ``optax.MultiSteps`` accumulates and a strategy asks for them; else empty.
    """

    inner_state: Any
    masks: tuple[Any, ...]
    count: Any
    replaced_step: Any
    updates: Any
    gradients: tuple[Any, ...]


@attrs.frozen(eq=False)
class Start:
    """What a new state starts with, besides that of the user's optimizer.

    Attributes:
        masks: of the active weights now, on the host.
        step: the number of finished steps.
        replaced_step: the number of the next step that is replaced, or -1.
        updates: the numbers of finished updates of each group.
    """

    masks: Sequence[Any]
    step: int
    replaced_step: int
    updates: tuple[int, ...]


def sparse_transformation(
    inner: Any,
    tensors: SparseTensors,
    entries: StateEntries,
    start: Callable[[PyTree], Start],
    *,
    replaces_steps: bool,
    accumulates: bool,
) -> Any:
    """Return the user's optimizer, which leaves inactive weights at zero.

    Args:
        inner: the user's transformation.
        tensors: the sparse tensors.
        entries: what its state has of single weights.
        start: returns what a state for these parameters starts with.
        replaces_steps: whether updates of the strategy may replace steps.
        accumulates: whether the dense gradients that MultiSteps accumulates are to be kept.

    Returns:
        A ``GradientTransformationExtraArgs`` whose state is a :class:`SparseState`.
    """
    optimizer = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> SparseState:
        now = start(params)
        arrays = tensors.of_tree(params)
        masks = tuple(placed_like(mask, array) for mask, array in zip(now.masks, arrays, strict=True))
        inner_state = optimizer.init(params)
        state = SparseState(
            inner_state=masked_entries(inner_state, masks, entries),
            masks=masks,
            count=jnp.asarray(now.step, jnp.int32),
            replaced_step=jnp.asarray(now.replaced_step, jnp.int32),
            updates=jnp.asarray(now.updates, jnp.int32),
            gradients=tuple(jnp.zeros(array.shape, array.dtype) for array in arrays) if accumulates else (),
        )
        return _committed_like(state, arrays[0])

    def update(
        gradients: PyTree, state: SparseState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, SparseState]:
        masked = masked_tree(gradients, state.masks, tensors)

        def step(inner_state: Any) -> tuple[PyTree, Any]:
            updates, after = optimizer.update(masked, inner_state, params, **extra)
            return masked_tree(updates, state.masks, tensors), masked_entries(after, state.masks, entries)

        if replaces_steps:
            updates, inner_state = _replaceable(step, state)
        else:
            updates, inner_state = step(state.inner_state)
        kept = _accumulated(state, inner_state, tensors.of_tree(gradients)) if accumulates else ()
        count = state.count + _steps_taken(state.inner_state, inner_state)
        return updates, state._replace(inner_state=inner_state, count=count, gradients=kept)

    return optax.GradientTransformationExtraArgs(init, update)


def masked_tree(tree: PyTree, masks: Sequence[Any], tensors: SparseTensors) -> PyTree:
    """Return a tree of the parameters' structure with zeros at inactive positions.

    Args:
        tree: parameters, gradients or updates.
        masks: one for each sparse tensor.
        tensors: the sparse tensors.

    Raises:
        InputError: the tree has another structure.
    """
    leaves = jax.tree.leaves(tree)
    for one, mask in zip(tensors.leaves, masks, strict=True):
        check_leaf("the tree of gradients, updates or parameters", leaves, one, tuple(mask.shape))
        leaves[one.index] = zero_unless(mask, leaves[one.index])
    return with_leaves(tree, leaves)


def masked_entries(state: PyTree, masks: Sequence[Any], entries: StateEntries) -> PyTree:
    """Return the state of an optimizer with zeros for inactive weights.

    Args:
        state: of the user's optimizer.
        masks: one for each sparse tensor.
        entries: what it has of single weights.
    """
    leaves = jax.tree.leaves(state)
    for index, tensor in entries.owners.items():
        leaves[index] = zero_unless(masks[tensor], leaves[index])
    return with_leaves(state, leaves)


def zero_unless(mask: Any, array: Any) -> Any:
    """Return an array with zeros where the mask is false, whatever is there now, also NaN.

    Args:
        mask: bool, of the shape of the array's last axes.
        array: the entries.
    """
    return jnp.where(mask, array, jnp.zeros((), array.dtype))


def placed_like(host: Any, array: Any) -> Any:
    """Return an array of the host as one of JAX, on the devices of another one.

    Args:
        host: of NumPy.
        array: of JAX, or traced; only a committed one tells where it has to be.
    """
    placed = jnp.asarray(host)
    is_committed = not isinstance(array, jax.core.Tracer) and getattr(array, "committed", False)
    return jax.device_put(placed, array.sharding) if is_committed else placed


def _committed_like(state: SparseState, array: Any) -> SparseState:
    """Return a state whose arrays are committed where the parameters are, so that its first step compiles for all.

    Counts that are made of nothing would be uncommitted before the first step and committed after it, and each of the
    two would be compiled.

    Args:
        state: before the first step.
        array: a parameter, of JAX or traced.
    """
    if isinstance(array, jax.core.Tracer) or not getattr(array, "committed", False):
        return state
    sharding = array.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    elif not isinstance(sharding, jax.sharding.SingleDeviceSharding):
        return state

    def placed(leaf: Any) -> Any:
        is_uncommitted = isinstance(leaf, jax.Array) and not leaf.committed
        return jax.device_put(leaf, sharding) if is_uncommitted else leaf

    committed: SparseState = jax.tree.map(placed, state)
    return committed


def _replaceable(step: Callable[[Any], tuple[PyTree, Any]], state: SparseState) -> tuple[PyTree, Any]:
    """Return what a step does, or nothing if it is the one that an update replaces."""
    is_replaced = state.count + 1 == state.replaced_step
    updates_like, _ = jax.eval_shape(step, state.inner_state)

    def nothing(inner_state: Any) -> tuple[PyTree, Any]:
        zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), updates_like)
        return zeros, inner_state

    field = _INNER.get(type(state.inner_state))
    if field is None:
        return jax.lax.cond(is_replaced, nothing, step, state.inner_state)  # type: ignore[no-any-return]
    # its counts go on, so that the step ends or is rejected; the optimizer in it stays as it is
    updates, after = step(state.inner_state)
    zeros, _ = nothing(None)

    def keep(old: Any, new: Any) -> Any:
        return jax.tree.map(lambda one, other: jnp.where(is_replaced, one, other), old, new)

    unchanged = keep(getattr(state.inner_state, field), getattr(after, field))
    return keep(zeros, updates), after._replace(**{field: unchanged})


_INNER: Mapping[type, str] = MappingProxyType(
    {optax.MultiStepsState: "inner_opt_state", optax.ApplyIfFiniteState: "inner_state"}
)
"""The states of optimizers that do not take a step at each call, and where the state of the optimizer in them is."""


def takes_every_step(inner_state: Any) -> bool:
    """Return whether each call of a user's optimizer is a step: it neither accumulates nor rejects gradients.

    Args:
        inner_state: its state.
    """
    return type(inner_state) not in _INNER


def check_outermost(optimizer: Any, params: PyTree) -> None:
    """Check that what accumulates or rejects gradients is around all other parts of an optimizer, where it is seen.

    Args:
        optimizer: the user's transformation.
        params: of the parameters' structure; their values are not read.

    Raises:
        InputError: it is within another one.
    """
    state = jax.eval_shape(optimizer.init, params)
    parts = state if takes_every_step(state) else tuple(state)
    inside = [one for one in jax.tree.leaves(parts, is_leaf=lambda node: type(node) in _INNER) if type(one) in _INNER]
    if inside:
        raise InputError(
            f"the optimizer has a {type(inside[0]).__name__} within another transformation, where steps that it "
            "accumulates or rejects cannot be distinguished from others; let one of optax.MultiSteps and "
            "optax.apply_if_finite be the outermost, as in optax.MultiSteps(optax.chain(...), ...), which skips "
            "gradients by its should_skip_update_fn="
        )


def _steps_taken(before: Any, after: Any) -> Any:
    """Return whether the optimizer has taken a step, 0 or 1: accumulation and rejected gradients are none."""
    counters: dict[type, Callable[[], Any]] = {
        optax.MultiStepsState: lambda: after.gradient_step - before.gradient_step,
        optax.ApplyIfFiniteState: lambda: after.last_finite,
    }
    return jnp.asarray(counters.get(type(after), lambda: 1)(), jnp.int32)


def _accumulated(state: SparseState, after: Any, gradients: Sequence[Any]) -> tuple[Any, ...]:
    """Return the mean of the dense gradients since the last step, as MultiSteps forms it, which may skip some."""
    before = state.inner_state
    number = before.mini_step
    is_skipped = (after.mini_step == number) & (after.gradient_step == before.gradient_step)
    return tuple(
        jnp.where(is_skipped, mean, jnp.where(number == 0, one, mean + (one - mean) / (number + 1))).astype(mean.dtype)
        for mean, one in zip(state.gradients, gradients, strict=True)
    )


def accumulates(optimizer: Any, params: PyTree) -> bool:
    """Return whether an optimizer is ``optax.MultiSteps``.

    Args:
        optimizer: a transformation.
        params: of the parameters' structure; their values are not read.
    """
    return isinstance(jax.eval_shape(optimizer.init, params), optax.MultiStepsState)


def sparse_state_of(opt_state: PyTree) -> tuple[SparseState, bool]:
    """Return the state of the sparse transformation within that of an optimizer, and whether MultiSteps is around it.

    Args:
        opt_state: the state itself, or one of ``optax.chain`` and the like that has it.

    Raises:
        LookupError: there is none, or several.
    """
    found = [one for one in jax.tree.leaves(opt_state, is_leaf=_is_sparse_state) if _is_sparse_state(one)]
    if len(found) != 1:
        raise LookupError(len(found))
    around = jax.tree.leaves(opt_state, is_leaf=lambda one: isinstance(one, optax.MultiStepsState))
    accumulating = [one for one in around if isinstance(one, optax.MultiStepsState)]
    return found[0], any(
        _is_sparse_state(inner) for one in accumulating for inner in jax.tree.leaves(one, is_leaf=_is_sparse_state)
    )


def with_sparse_state(opt_state: PyTree, state: SparseState) -> PyTree:
    """Return the state of an optimizer with another state of the sparse transformation in it.

    Args:
        opt_state: as for :func:`sparse_state_of`.
        state: the new one.
    """
    return jax.tree.map(lambda one: state if _is_sparse_state(one) else one, opt_state, is_leaf=_is_sparse_state)


def _is_sparse_state(node: Any) -> bool:
    return isinstance(node, SparseState)
