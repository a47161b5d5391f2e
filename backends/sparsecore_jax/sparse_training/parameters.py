"""The parameters of a model as named arrays: dicts, FrozenDicts, states of nnx, modules of equinox, dicts of haiku."""

from collections.abc import Sequence
from typing import Any

import attrs
import jax
import jax.numpy as jnp

from sparsecore.errors import InputError

PyTree = Any
"""Any tree of containers that JAX knows, with arrays as its leaves."""


@attrs.frozen(eq=False)
class Leaf:
    """One array of a tree of parameters.

    Attributes:
        name: the keys on its path, joined by slashes, without the last one where that is the ``value`` of an
            ``nnx.Variable``.
        index: among all leaves of the tree.
        shape: its shape.
        dtype: its type.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: Any

    @property
    def parts(self) -> tuple[str, ...]:
        """The keys on the path."""
        return tuple(self.name.split("/"))


def leaves_of(params: PyTree) -> tuple[Leaf, ...]:
    """Return the arrays of a tree, in the order in which JAX flattens it.

    Args:
        params: the parameters.

    Raises:
        InputError: there is none, something else is among them, or two have one name.
    """
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    if not found:
        raise InputError(
            "params has no arrays; it is a pytree of parameters, such as those that a flax model's init gives"
        )
    leaves = tuple(_leaf(index, path, value) for index, (path, value) in enumerate(found))
    names = [one.name for one in leaves]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"two parameters are named {twice!r}; names are the keys on a parameter's path, joined by '/'")
    return leaves


def _leaf(index: int, path: Sequence[Any], value: Any) -> Leaf:
    name = path_name(path)
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise InputError(
            f"{name or 'params'} is {value!r}, and no array; give the arrays alone, of an equinox module for example "
            "equinox.filter(model, equinox.is_inexact_array)"
        )
    return Leaf(name, index, tuple(value.shape), value.dtype)


def path_name(path: Sequence[Any]) -> str:
    """Return the name of a leaf.

    Args:
        path: its keys, as JAX gives them.
    """
    keys = path[:-1] if len(path) > 1 and _is_value_of_variable(path[-1]) else path
    return str(jax.tree_util.keystr(tuple(keys), simple=True, separator="/"))


def _is_value_of_variable(key: Any) -> bool:
    return isinstance(key, jax.tree_util.GetAttrKey) and key.name == "value"


def is_floating(leaf: Leaf) -> bool:
    """Return whether the leaf has floating-point numbers, of 16 bits too."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def check_leaf(noun: str, leaves: Sequence[Any], leaf: Leaf, shape: tuple[int, ...]) -> None:
    """Check that the leaves of a tree have an array for a parameter at its place.

    Args:
        noun: what the tree is, for the error sentence.
        leaves: of the tree.
        leaf: the parameter.
        shape: that the array must have: the parameter's, or of the part of it that a device has.

    Raises:
        InputError: there is none, or it has another shape.
    """
    there = tuple(leaves[leaf.index].shape) if leaf.index < len(leaves) else None
    if there != shape:
        raise InputError(
            f"{noun} has {'nothing' if there is None else f'an array of shape {there}'} at the place of {leaf.name}, "
            f"which has the shape {shape}; give a tree with all parameters, and put optax.masked and "
            "optax.multi_transform into the optimizer that sparsify gets, not around the one that it returns"
        )


def with_leaves(tree: PyTree, leaves: Sequence[Any]) -> PyTree:
    """Return a tree of the same structure with other leaves.

    Args:
        tree: the structure.
        leaves: as many as the tree has.
    """
    return jax.tree.structure(tree).unflatten(list(leaves))
