"""Finds the arrays in an optimizer's state that have one entry for each weight, such as Adam's moments.

The shape of an array does not tell: a preconditioner of a square matrix has the shape of its weight. So the optimizer
is tried on small scratch parameters. Where the entries of gradients and parameters change places, those of a moment do,
too; what depends on one weight and its gradient alone does not change with the others; and where whole rows change
places, and columns by another permutation, so do those of a moment that its matrix scales, but not a preconditioner.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from sparsecore.errors import InputError, listed
from sparsecore_jax.sparse_training.parameters import Leaf, PyTree, is_floating, path_name, with_leaves
from sparsecore_jax.sparse_training.selection import several

_SIDE = 4
"""The longest side of scratch parameters."""
_STEPS = 3
_SHOWN = 8

AnyArray = NDArray[Any]


@attrs.frozen(eq=False)
class StateEntries:
    """The arrays of an optimizer's state that belong to single weights.

    Attributes:
        owners: the index of a sparse tensor by the index of a leaf in the state: the leaf has the tensor's shape, or
            several of them along further axes in front, and one entry for each weight.
        momentum: the index of the leaf that is the momentum of ``optax.trace``, by the index of the tensor.
        whole: the names of leaves that have a sparse tensor's name and shape, and describe it as a whole.
    """

    owners: Mapping[int, int]
    momentum: Mapping[int, int]
    whole: tuple[str, ...]


def state_entries(
    optimizer: Any, params: PyTree, leaves: Sequence[Leaf], sparse: Sequence[Leaf], moments: Any = None
) -> StateEntries:
    """Return what an optimizer's state has of each weight.

    Args:
        optimizer: the user's transformation.
        params: all parameters; their values are not read.
        leaves: all of them.
        sparse: those that become sparse.
        moments: globs on the names of leaves of the state that have one entry a weight, where the user knows it.

    Raises:
        InputError: the state has all parameters in one vector, the optimizer cannot be tried, or a glob matches
            nothing.
    """
    state = jax.eval_shape(optimizer.init, params)
    found = jax.tree_util.tree_flatten_with_path(state)[0]
    _check_not_joined(found, leaves)
    names = {index: path_name(path) for index, (path, _) in enumerate(found)}
    tensors = {one.index: tensor for tensor, one in enumerate(sparse)}
    fitting = {index: _fitting(names[index], tuple(like.shape), leaves) for index, (_, like) in enumerate(found)}
    places = {index: some for index, some in fitting.items() if tensors.keys() & set(some)}
    if moments is not None:
        certain = {index: some[0] for index, some in places.items() if len(some) == 1}
        entries = _named(several(moments), certain, names)
    else:
        entries = _tried(optimizer, params, leaves, places) if places else {}
    owners = {index: tensors[place] for index, place in entries.items() if place in tensors}
    return StateEntries(
        owners=owners,
        momentum={owners[index]: index for index in _traces(state) if index in owners},
        whole=tuple(names[index] for index in places if index not in entries),
    )


def _check_not_joined(found: Iterable[tuple[Any, Any]], leaves: Sequence[Leaf]) -> None:
    size = sum(math.prod(one.shape) for one in leaves)
    for path, like in found:
        if len(leaves) > 1 and tuple(like.shape) == (size,):
            raise InputError(
                f"the optimizer's state has one vector of all {size:,} parameters, {path_name(path)}, as optax.flatten "
                "makes it, in which the entries of inactive weights cannot be found; leave optax.flatten out"
            )


def _fitting(name: str, shape: tuple[int, ...], leaves: Sequence[Leaf]) -> tuple[int, ...]:
    """Return the indices of the parameters that a leaf of the state may belong to: all whose shape ends its shape.

    Where its name ends with that of one of these, it is that one alone: of several the one with the longest name.
    """
    shaped = [one for one in leaves if len(one.shape) > 0 and shape[-len(one.shape) :] == one.shape]
    named = [one for one in shaped if f"/{name}".endswith(f"/{one.name}")]
    return (max(named, key=lambda one: len(one.parts)).index,) if named else tuple(one.index for one in shaped)


def _named(globs: Sequence[Any], places: Mapping[int, int], names: Mapping[int, str]) -> dict[int, int]:
    for glob in globs:
        if not any(fnmatchcase(names[index], str(glob)) for index in places):
            raise InputError(
                f"moments={glob!r} matches nothing in the optimizer's state that has the name and the shape of a "
                f"sparse parameter; there are {listed([names[index] for index in places], _SHOWN) or 'none'}"
            )
    return {
        index: place for index, place in places.items() if any(fnmatchcase(names[index], str(glob)) for glob in globs)
    }


def _traces(state: PyTree) -> list[int]:
    """Return the indices of the leaves that are momentum of ``optax.trace``."""
    marks = jax.tree.map(
        lambda node: (
            jax.tree.map(lambda _: True, node)
            if isinstance(node, optax.TraceState)
            else jax.tree.map(lambda _: False, node)
        ),
        state,
        is_leaf=lambda node: isinstance(node, optax.TraceState),
    )
    return [index for index, is_trace in enumerate(jax.tree.leaves(marks)) if is_trace]


def _tried(
    optimizer: Any, params: PyTree, leaves: Sequence[Leaf], places: Mapping[int, tuple[int, ...]]
) -> dict[int, int]:
    """Return which leaves of the state have one entry a weight, as a trial shows, and of which parameter.

    Args:
        optimizer: the user's transformation.
        params: all parameters.
        leaves: all of them.
        places: the indices of the parameters that a leaf may belong to, by the index of the leaf in the state.
    """
    failure: Exception | None = None
    for longest in (_SIDE, None):  # the optimizer may have captured arrays of the true shapes
        try:
            return _Trial(optimizer, params, leaves, longest).entries(places)
        except Exception as error:  # it is code of another library
            failure = failure or error
    raise InputError(
        "the optimizer could not be tried on scratch parameters, to see which of its state has one entry a weight "
        f"({type(failure).__name__}: {failure}); name that state with moments=, by globs on its paths such as '*/mu/*'"
    ) from failure


class _Trial:
    """Some steps of an optimizer on scratch parameters.

    Args:
        optimizer: the user's transformation.
        params: gives the structure.
        leaves: all parameters.
        longest: the longest side of the scratch parameters; None for the true shapes.
    """

    def __init__(self, optimizer: Any, params: PyTree, leaves: Sequence[Leaf], longest: int | None) -> None:
        self._optimizer = optax.with_extra_args_support(optimizer)
        self._params = params
        self._leaves = leaves
        self._shapes = [tuple(min(side, longest or side) for side in one.shape) for one in leaves]

    def entries(self, places: Mapping[int, tuple[int, ...]]) -> dict[int, int]:
        """Return the index of a parameter by the index of a leaf in the state that has one entry for each weight.

        Args:
            places: the indices of the parameters that a leaf may belong to, by the index of the leaf.
        """
        random = np.random.default_rng(0)
        start, *gradients = [[random.normal(size=shape) for shape in self._shapes] for _ in range(_STEPS + 1)]
        orders = [random.permutation(math.prod(shape)) for shape in self._shapes]
        kept = [random.random(shape) < 0.5 for shape in self._shapes]
        plain = self._state(start, gradients)
        permuted = self._state(_permuted(start, orders), [_permuted(one, orders) for one in gradients])
        rolled = self._state(_rolled(start), [_rolled(one) for one in gradients])
        changed = self._state(start, [_where(kept, one, 2.0) for one in gradients])
        found = {}
        for index, some in places.items():
            moved = [p for p in some if _is_close(_permuted([plain[index]], [orders[p]])[0], permuted[index])]
            alone = [
                p for p in some if _is_close(np.where(kept[p], plain[index], 0), np.where(kept[p], changed[index], 0))
            ]
            turned = [p for p in some if _is_close(_rolled([plain[index]], len(self._shapes[p]))[0], rolled[index])]
            # what fits several, such as zeros that never change, tells of none
            owner = next((fits[0] for fits in (moved, alone, turned) if len(fits) == 1), None)
            if owner is not None:
                found[index] = owner
        return found

    def _state(self, start: Sequence[AnyArray], gradients: Sequence[Sequence[AnyArray]]) -> list[AnyArray]:
        """Return the leaves of the state after steps from these parameters with these gradients."""
        params = self._tree(start)
        state = self._optimizer.init(params)
        for one in gradients:
            updates, state = self._update(self._tree(one), state, params)
            params = optax.apply_updates(params, updates)
        return [np.asarray(leaf, np.float64) if _is_number(leaf) else np.zeros(()) for leaf in jax.tree.leaves(state)]

    def _update(self, gradients: PyTree, state: PyTree, params: PyTree) -> Any:
        try:
            return self._optimizer.update(gradients, state, params)
        except TypeError:  # line searches and the like ask for more
            more: dict[str, Any] = {
                "value": jnp.ones(()),
                "grad": gradients,
                "value_fn": lambda tree: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)),
            }
            return self._optimizer.update(gradients, state, params, **more)

    def _tree(self, arrays: Sequence[AnyArray]) -> PyTree:
        # what is no floating-point number, such as a counter, keeps its type
        dtypes = [jnp.float32 if is_floating(one) else one.dtype for one in self._leaves]
        pairs = zip(arrays, dtypes, strict=True)
        return with_leaves(self._params, [jnp.asarray(array, dtype) for array, dtype in pairs])


def _is_number(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.number) or jnp.issubdtype(leaf.dtype, jnp.bool_))


def _permuted(arrays: Sequence[AnyArray], orders: Sequence[NDArray[np.int64]]) -> list[AnyArray]:
    """Return arrays whose entries have changed places; those along further axes in front all in the same way."""
    return [
        array.reshape(-1, len(order))[:, order].reshape(array.shape)
        for array, order in zip(arrays, orders, strict=True)
    ]


def _rolled(arrays: Sequence[AnyArray], dimensions: int | None = None) -> list[AnyArray]:
    """Return arrays that are rolled along each of their last axes, by another number along each."""
    counts = [array.ndim if dimensions is None else dimensions for array in arrays]
    return [
        np.roll(array, tuple(range(1, count + 1)), tuple(range(-count, 0)))
        for array, count in zip(arrays, counts, strict=True)
    ]


def _where(kept: Sequence[NDArray[np.bool_]], arrays: Sequence[AnyArray], factor: float) -> list[AnyArray]:
    return [np.where(mask, array, factor * array) for mask, array in zip(kept, arrays, strict=True)]


def _is_close(there: AnyArray, here: AnyArray) -> bool:
    return bool(np.allclose(there, here, rtol=1e-3, atol=1e-6, equal_nan=True))
