"""Arrays of a backend: the types, and the few operations that the engine needs beyond Python's operators.

Operations are pure: they return new arrays and change nothing in place. NumPy is the reference: given the same values,
every backend must return the same positions in the same order (ties: lowest position first).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray


class Array(Protocol):  # noqa: PLW1641 - arrays that compare entry by entry cannot be hashed by value
    """A backend's one-dimensional array: a NumPy array, a torch tensor, or what else has these operators.

    Operators work entry by entry, on two arrays of one length or on an array and a number; they return new arrays.
    Comparisons return arrays of bools, which ``&``, ``|`` and ``~`` combine. Slices return views or copies.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of entries along each axis; a tuple of one number."""
        ...

    @property
    def dtype(self) -> Any:
        """The type of the entries, an object of the backend's own; :func:`dtype_name` returns NumPy's name for it."""
        ...

    def __len__(self) -> int: ...

    def __int__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> "Array": ...

    def __abs__(self) -> "Array": ...

    def __neg__(self) -> "Array": ...

    def __invert__(self) -> "Array": ...

    def __add__(self, other: Any, /) -> "Array": ...

    def __radd__(self, other: Any, /) -> "Array": ...

    def __sub__(self, other: Any, /) -> "Array": ...

    def __rsub__(self, other: Any, /) -> "Array": ...

    def __mul__(self, other: Any, /) -> "Array": ...

    def __rmul__(self, other: Any, /) -> "Array": ...

    def __truediv__(self, other: Any, /) -> "Array": ...

    def __floordiv__(self, other: Any, /) -> "Array": ...

    def __mod__(self, other: Any, /) -> "Array": ...

    def __and__(self, other: Any, /) -> "Array": ...

    def __or__(self, other: Any, /) -> "Array": ...

    def __eq__(self, other: Any, /) -> "Array": ...  # type: ignore[override]

    def __ne__(self, other: Any, /) -> "Array": ...  # type: ignore[override]

    def __lt__(self, other: Any, /) -> "Array": ...

    def __le__(self, other: Any, /) -> "Array": ...

    def __gt__(self, other: Any, /) -> "Array": ...

    def __ge__(self, other: Any, /) -> "Array": ...


OwnArray: TypeAlias = Any
"""An :class:`Array` of the backend itself: each takes only its own, which a protocol cannot say of an argument."""


class Arrays(Protocol):
    """Operations of a backend on one-dimensional arrays."""

    def from_numpy(self, array: NDArray[Any]) -> Array:
        """Return the backend's array with these entries and the same dtype."""
        ...

    def to_numpy(self, array: OwnArray) -> NDArray[Any]:
        """Return the entries on the host, with the same dtype."""
        ...

    def readonly(self, array: OwnArray) -> Array:
        """Return a read-only view where the backend supports one, else the array itself."""
        ...

    def arange(self, count: int, dtype: DTypeLike) -> Array:
        """Return 0, 1, ..., count-1."""
        ...

    def zeros_like(self, array: OwnArray, count: int) -> Array:
        """Return ``count`` zeros of the dtype and on the device of ``array``."""
        ...

    def cast(self, array: OwnArray, dtype: DTypeLike) -> Array:
        """Return the same entries in another dtype."""
        ...

    def take(self, array: OwnArray, indices: OwnArray) -> Array:
        """Return ``array[indices]`` along the first axis."""
        ...

    def put(self, array: OwnArray, indices: OwnArray, entries: OwnArray) -> Array:
        """Return a copy of ``array`` with ``entries``, or one number or bool, at ``indices``."""
        ...

    def where(self, condition: OwnArray, yes: OwnArray, no: OwnArray) -> Array:
        """Return ``yes`` where the condition holds, else ``no``, entry by entry."""
        ...

    def nonzero(self, mask: OwnArray) -> Array:
        """Return the indices of the true entries, ascending."""
        ...

    def concatenate(self, parts: Sequence[OwnArray]) -> Array:
        """Return the parts end to end."""
        ...

    def sort(self, array: OwnArray) -> Array:
        """Return the entries in ascending order."""
        ...

    def argsort(self, array: OwnArray) -> Array:
        """Return the indices that sort ascending; equal entries keep their order."""
        ...

    def searchsorted(self, sorted_array: OwnArray, queries: OwnArray, side: Literal["left", "right"]) -> Array:
        """Return the index at which each query would be inserted into the ascending ``sorted_array``."""
        ...

    def all_finite(self, array: OwnArray) -> bool:
        """Return whether no entry is NaN or infinite."""
        ...


class Counting(Protocol):
    """Operations that a backend on a device may add, so that the host rarely waits for it; results stay on the device.

    A backend that has them offers them as its attribute ``counting``; otherwise they are made of the other operations.
    """

    def count(self, mask: OwnArray) -> Array:
        """Return how many entries are true: one int64."""
        ...

    def count_not_finite(self, array: OwnArray) -> Array:
        """Return how many entries are NaN or infinite, or 1 if there are any: one int64."""
        ...

    def count_each(self, mask: OwnArray, bounds: Sequence[int]) -> NDArray[np.int64]:
        """Return how many entries ``bounds[i]:bounds[i + 1]`` are true, for each i; on the host."""
        ...

    def nonzero(self, mask: OwnArray, count: int) -> Array:
        """Return the indices of the true entries, ascending, of which there are ``count``."""
        ...


@attrs.frozen(eq=False)
class DefaultCounting:
    """:class:`Counting` made of a backend's other operations.

    Attributes:
        arrays: those operations.
    """

    arrays: Arrays

    def count(self, mask: Array) -> Array:
        """Return how many entries are true: one int64."""
        return self.arrays.from_numpy(np.array([np.count_nonzero(self.arrays.to_numpy(mask))], np.int64))

    def count_not_finite(self, array: Array) -> Array:
        """Return 1 if an entry is NaN or infinite, else 0: one int64."""
        return self.arrays.from_numpy(np.array([not self.arrays.all_finite(array)], np.int64))

    def count_each(self, mask: Array, bounds: Sequence[int]) -> NDArray[np.int64]:
        """Return how many entries ``bounds[i]:bounds[i + 1]`` are true, for each i."""
        host, ends = self.arrays.to_numpy(mask), itertools.pairwise(bounds)
        return np.array([np.count_nonzero(host[first:last]) for first, last in ends], np.int64)

    def nonzero(self, mask: Array, count: int) -> Array:  # noqa: ARG002
        """Return the indices of the true entries, ascending."""
        return self.arrays.nonzero(mask)


def counting_of(arrays: Arrays) -> Counting:
    """Return the backend's own :class:`Counting`, or one made of its other operations."""
    own: Counting | None = getattr(arrays, "counting", None)
    return DefaultCounting(arrays) if own is None else own


Gradient: TypeAlias = Callable[[str], Array]
"""A function from a tensor's name to its dense gradient: D_i entries, active or not, row-major, read-only."""


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
