"""The abstract tensor protocol: the few verbs that the engine needs beyond Python's operators.

A backend's verbs are pure: arrays in, new arrays out, nothing in place. NumPy is the oracle: given the same values,
every backend must return the same positions in the same order (ties: lowest position first).
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = Any
"""A backend's one-dimensional array. It has ``shape``, ``dtype``, ``len()``, slices, ``abs()``, arithmetic and
comparison operators, and ``&``, ``|``, ``~`` on booleans."""


class Arrays(Protocol):
    """One-dimensional array verbs of a backend."""

    def from_numpy(self, array: NDArray[Any]) -> Array:
        """The backend's array with these entries and the same dtype."""
        ...

    def to_numpy(self, array: Array) -> NDArray[Any]:
        """The entries on the host, with the same dtype."""
        ...

    def shown(self, array: Array) -> Array:
        """The array to be looked at: the same entries, not to be written to where the backend can see to that."""
        ...

    def arange(self, count: int, dtype: DTypeLike) -> Array:
        """0, 1, ..., count-1."""
        ...

    def zeros_like(self, array: Array, count: int) -> Array:
        """``count`` zeros of the dtype and on the device of ``array``."""
        ...

    def cast(self, array: Array, dtype: DTypeLike) -> Array:
        """The same entries in another dtype."""
        ...

    def take(self, array: Array, indices: Array) -> Array:
        """``array[indices]`` along the first axis."""
        ...

    def put(self, array: Array, indices: Array, entries: Array) -> Array:
        """A copy of ``array`` with ``entries`` at ``indices``."""
        ...

    def where(self, condition: Array, yes: Array, no: Array) -> Array:
        """``yes`` where the condition holds, else ``no``, entry by entry."""
        ...

    def nonzero(self, mask: Array) -> Array:
        """Indices of the true entries, ascending."""
        ...

    def concatenate(self, parts: Sequence[Array]) -> Array:
        """The parts end to end."""
        ...

    def sort(self, array: Array) -> Array:
        """The entries in ascending order."""
        ...

    def argsort(self, array: Array) -> Array:
        """Indices that sort ascending; equal entries keep their order."""
        ...

    def searchsorted(self, sorted_array: Array, queries: Array, side: Literal["left", "right"]) -> Array:
        """Where each query would be inserted into the ascending ``sorted_array``."""
        ...

    def all_finite(self, array: Array) -> bool:
        """Whether no entry is NaN or infinite."""
        ...
