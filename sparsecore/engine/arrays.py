"""The abstract tensor protocol: the few verbs that the engine needs beyond Python's operators.

A backend's verbs are pure: arrays in, new arrays out, nothing in place. NumPy is the oracle: given the same values,
every backend must return the same positions in the same order (ties: lowest position first).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import attrs
import numpy as np
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

    def readonly(self, array: Array) -> Array:
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


class Counting(Protocol):
    """Verbs that spare a backend on a device most of the waiting for it; what they return stays there.

    A backend that has them offers an attribute ``counting``. Without it they are made of the other verbs.
    """

    def count(self, mask: Array) -> Array:
        """How many entries are true: one int64."""
        ...

    def count_not_finite(self, array: Array) -> Array:
        """How many entries are NaN or infinite, or just whether there are any: one int64."""
        ...

    def count_each(self, mask: Array, bounds: Sequence[int]) -> NDArray[np.int64]:
        """How many entries ``bounds[i]:bounds[i + 1]`` are true, for each i; on the host."""
        ...

    def nonzero(self, mask: Array, count: int) -> Array:
        """Indices of the true entries, ascending, of which there are ``count``."""
        ...


@attrs.frozen(eq=False)
class CountingByVerbs:
    """See :class:`Counting`; made of a backend's other verbs.

    Attributes:
        arrays: the backend's verbs.
    """

    arrays: Arrays

    def count(self, mask: Array) -> Array:
        """How many entries are true: one int64."""
        return self.arrays.from_numpy(np.array([np.count_nonzero(self.arrays.to_numpy(mask))], np.int64))

    def count_not_finite(self, array: Array) -> Array:
        """1 where an entry is NaN or infinite, else 0: one int64."""
        return self.arrays.from_numpy(np.array([not self.arrays.all_finite(array)], np.int64))

    def count_each(self, mask: Array, bounds: Sequence[int]) -> NDArray[np.int64]:
        """How many entries ``bounds[i]:bounds[i + 1]`` are true, for each i."""
        host, ends = self.arrays.to_numpy(mask), itertools.pairwise(bounds)
        return np.array([np.count_nonzero(host[first:last]) for first, last in ends], np.int64)

    def nonzero(self, mask: Array, count: int) -> Array:  # noqa: ARG002
        """Indices of the true entries, ascending."""
        return self.arrays.nonzero(mask)


def counting_of(arrays: Arrays) -> Counting:
    """The backend's own counting verbs, or those made of its other verbs."""
    own: Counting | None = getattr(arrays, "counting", None)
    return CountingByVerbs(arrays) if own is None else own


Gradient: TypeAlias = Callable[[str], Array]
"""The gradient of a tensor, by name: D_i entries, active or not, row-major; not to be written to."""


Counts: TypeAlias = NDArray[np.int64]
"""Numbers of weights, one a tensor, in the order of ``layout.names``; on the host."""


def constant(counts: Counts) -> Counts:
    """Make a NumPy array read-only, in place, and return it."""
    counts.flags.writeable = False
    return counts


def dtype_name(array: object) -> str:
    """Return the name that NumPy has for the dtype of an array of any backend."""
    return str(getattr(array, "dtype", None)).removeprefix("torch.")


def describe(given: object) -> str:
    """Describe a value for an error message: an array by its dtype and shape, anything else as it prints."""
    shape = getattr(given, "shape", None)
    return f"{type(given).__name__} of {dtype_name(given)}, shape {tuple(shape)}" if shape is not None else repr(given)
