"""The sparse tensors of a training: reading their values on the host, and masks for the device."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import jax
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Layout, Topology
from sparsecore_jax.sparse_training.orientation import Orientation, orientation_of
from sparsecore_jax.sparse_training.parameters import Leaf, PyTree


@attrs.frozen(eq=False)
class SparseTensors:
    """The sparse tensors among the leaves of a tree of parameters.

    Attributes:
        leaves: the sparse ones, in the order of the tree.
        orientations: of each.
        layout: the tensors as the engine sees them.
        dtype: the type in which strategies see values: the widest of the tensors', at least float32.
    """

    leaves: tuple[Leaf, ...]
    orientations: tuple[Orientation, ...]
    layout: Layout
    dtype: np.dtype[Any]
    _latest: list[Any] = attrs.field(factory=list, init=False, repr=False)

    @classmethod
    def of(cls, leaves: Sequence[Leaf]) -> "SparseTensors":
        """Return the sparse tensors.

        Args:
            leaves: those that become sparse.
        """
        orientations = tuple(map(orientation_of, leaves))
        shapes = {leaf.name: one.engine_shape for leaf, one in zip(leaves, orientations, strict=True)}
        dtype = np.result_type(np.float32, *(np.float64 for leaf in leaves if leaf.dtype == np.float64))
        return cls(tuple(leaves), orientations, Layout.of(shapes), dtype)

    def of_tree(self, tree: PyTree) -> list[Any]:
        """Return the sparse leaves of a tree of the parameters' structure."""
        leaves = jax.tree.leaves(tree)
        return [leaves[one.index] for one in self.leaves]

    def flat(self, tree: PyTree) -> Callable[[str], Any]:
        """Return a function from a tensor's name to all its entries, (D_i,), in the engine's order, on the host.

        Args:
            tree: of the parameters' structure, such as gradients.
        """
        arrays = self.of_tree(tree)

        def of(name: str) -> Any:
            index = self.layout.index(name)
            return self.orientations[index].flat(on_host(arrays[index], self.dtype))

        return of

    def active(self, tree: PyTree, topology: Topology) -> Any:
        """Return the entries at the active positions, (N,), on the host.

        Args:
            tree: of the parameters' structure.
            topology: the active positions.
        """
        parts = [
            on_host(array, None).reshape(-1)[own].astype(self.dtype, copy=False)
            for array, own in zip(self.of_tree(tree), self.leaf_indices(topology), strict=True)
        ]
        return np.concatenate(parts)

    def leaf_indices(self, topology: Topology) -> list[NDArray[np.integer]]:
        """Return the row-major indices of the active weights of each tensor in its leaf, in the engine's order."""
        if not self._latest or self._latest[0] is not topology:  # that after an update is the one before the next
            columns = zip(self.layout.names, self.orientations, strict=True)
            self._latest[:] = [topology, [one.to_leaf(topology.local(name)) for name, one in columns]]
        indices: list[NDArray[np.integer]] = self._latest[1]
        return indices

    def masks(self, topology: Topology) -> tuple[NDArray[np.bool_], ...]:
        """Return the mask of each leaf, on the host.

        Args:
            topology: the positions at which it is true.
        """
        columns = zip(self.orientations, self.leaf_indices(topology), strict=True)
        return tuple(one.leaf_mask(indices) for one, indices in columns)

    def masks_of(self, topology: Topology, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
        """Return the mask of each leaf that is true at some of the positions, on the host.

        Args:
            topology: the positions.
            chosen: which of them, (N,).
        """
        columns = zip(self.layout.names, self.orientations, self.leaf_indices(topology), strict=True)
        return tuple(one.leaf_mask(indices[chosen[topology.slots(name)]]) for name, one, indices in columns)

    def dense(self, topology: Topology, entries: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
        """Return arrays of the leaves' shapes with one entry at each position, and zero elsewhere, on the host.

        Args:
            topology: the positions.
            entries: one for each.
        """
        columns = zip(self.layout.names, self.orientations, strict=True)
        return tuple(one.dense(topology.local(name), entries[topology.slots(name)]) for name, one in columns)


def on_host(array: Any, dtype: Any) -> NDArray[Any]:
    """Return an array of JAX as one of NumPy; the host waits for the device.

    Args:
        array: of any shape.
        dtype: of the result; None for the array's own.
    """
    host = np.asarray(array)
    return host if dtype is None else host.astype(dtype, copy=False)
