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
        """Return the backend's array with these entries and the same dtype.

        Args:
            array: entries of float32, float64, int64, int32, int8 or bool; the result may share its memory.

        Returns:
            The same entries bit for bit, on the backend's device.
        """
        ...

    def to_numpy(self, array: OwnArray) -> NDArray[Any]:
        """Return the entries on the host, with the same dtype.

        Args:
            array: on any device; the host waits until its entries are computed.

        Returns:
            The same entries bit for bit; on a host backend it may be the array itself.
        """
        ...

    def readonly(self, array: OwnArray) -> Array:
        """Return a read-only view where the backend supports one, else the array itself.

        Args:
            array: the entries, of any dtype; its own memory stays writeable through other references.
        """
        ...

    def arange(self, count: int, dtype: DTypeLike) -> Array:
        """Return 0, 1, ..., count-1.

        Args:
            count: at least 0; 0 gives an empty array.
            dtype: a type of whole numbers that can hold ``count - 1``, as NumPy names it.
        """
        ...

    def zeros_like(self, array: OwnArray, count: int) -> Array:
        """Return ``count`` zeros of the dtype and on the device of ``array``.

        Args:
            array: what the zeros are to be joined with by :meth:`concatenate`; its entries are not read.
            count: at least 0.
        """
        ...

    def cast(self, array: OwnArray, dtype: DTypeLike) -> Array:
        """Return the same entries in another dtype.

        Args:
            array: numbers or bools; bools become 0 and 1.
            dtype: of the result, as NumPy names it; it must be able to hold the entries.

        Returns:
            The entries in that dtype; it may be the array itself where that is its dtype already.
        """
        ...

    def take(self, array: OwnArray, indices: OwnArray) -> Array:
        """Return ``array[indices]`` along the first axis.

        Args:
            array: n entries, or n rows, of any dtype.
            indices: whole numbers in [0, n), in any order and repeated as often as one likes.

        Returns:
            One entry for each index, in the dtype of ``array``.
        """
        ...

    def put(self, array: OwnArray, indices: OwnArray, entries: OwnArray) -> Array:
        """Return a copy of ``array`` with ``entries``, or one number or bool, at ``indices``.

        Args:
            array: n entries.
            indices: distinct whole numbers in [0, n).
            entries: one for each index, in the dtype of ``array``, or a single one for all of them.
        """
        ...

    def where(self, condition: OwnArray, yes: OwnArray, no: OwnArray) -> Array:
        """Return ``yes`` where the condition holds, else ``no``, entry by entry.

        Args:
            condition: n bools.
            yes: n entries, or one number.
            no: n entries, or one number; of the same dtype as ``yes`` where both are arrays.
        """
        ...

    def nonzero(self, mask: OwnArray) -> Array:
        """Return the indices of the true entries, ascending.

        Args:
            mask: n bools.

        Returns:
            Whole numbers in [0, n), in the backend's dtype of indices. On a device the host waits for their number;
            :meth:`Counting.nonzero` avoids that.
        """
        ...

    def concatenate(self, parts: Sequence[OwnArray]) -> Array:
        """Return the parts end to end.

        Args:
            parts: at least one array, all of one dtype; each may be empty.
        """
        ...

    def sort(self, array: OwnArray) -> Array:
        """Return the entries in ascending order.

        Args:
            array: numbers or bools without NaN, which the engine has excluded by :meth:`all_finite`.

        Returns:
            A new array of the same dtype.
        """
        ...

    def argsort(self, array: OwnArray) -> Array:
        """Return the indices that sort ascending; equal entries keep their order.

        Args:
            array: n numbers or bools without NaN.

        Returns:
            n whole numbers, in the backend's dtype of indices. The sort is stable, so that of tied weights every
            backend prunes those at the lowest positions.
        """
        ...

    def smallest_indices(self, array: OwnArray, count: int) -> Array:
        """Return the indices of the smallest entries, in linear time.

        Strategies select a few of many entries by it, such as the dense gradients of a tensor, so it should not sort.
        :func:`sparsecore.engine.selection.smallest_indices` implements it for arrays of NumPy.

        Args:
            array: n numbers or bools, NaN included.
            count: how many indices to return, at least 0 and at most n.

        Returns:
            ``count`` whole numbers, ascending, in the backend's dtype of indices: those that a stable sort puts first.
            Of equal entries the first are taken, and NaN comes after all numbers.
        """
        ...

    def searchsorted(self, sorted_array: OwnArray, queries: OwnArray, side: Literal["left", "right"]) -> Array:
        """Return the index at which each query would be inserted into the ascending ``sorted_array``.

        Args:
            sorted_array: n numbers, ascending.
            queries: any numbers of the same dtype, in any order.
            side: 'left' for the index before entries that equal the query, 'right' for that behind them.

        Returns:
            Whole numbers in [0, n], one for each query, in the backend's dtype of indices.
        """
        ...

    def all_finite(self, array: OwnArray) -> bool:
        """Return whether no entry is NaN or infinite.

        Args:
            array: of a floating-point dtype.

        Returns:
            A bool of Python, for which the host waits for a device; True for an empty array.
        """
        ...


class Counting(Protocol):
    """Operations that a backend on a device may add, so that the host rarely waits for it; results stay on the device.

    A backend that has them offers them as its attribute ``counting``; otherwise they are made of the other operations.
    """

    def count(self, mask: OwnArray) -> Array:
        """Return how many entries are true: one int64.

        Args:
            mask: n bools, on the backend.

        Returns:
            An array of shape (1,), on the device.
        """
        ...

    def count_not_finite(self, array: OwnArray) -> Array:
        """Return how many entries are NaN or infinite, or 1 if there are any: one int64.

        Args:
            array: of a floating-point dtype, on the backend.

        Returns:
            An array of shape (1,), on the device: 0 if and only if all entries are finite.
        """
        ...

    def count_each(self, mask: OwnArray, bounds: Sequence[int]) -> NDArray[np.int64]:
        """Return how many entries ``bounds[i]:bounds[i + 1]`` are true, for each i; on the host.

        Args:
            mask: n bools, on the backend.
            bounds: T+1 ascending integers from 0 to n, such as :attr:`sparsecore.engine.topology.Topology.bounds`.

        Returns:
            (T,); the host waits for the device once.
        """
        ...

    def nonzero(self, mask: OwnArray, count: int) -> Array:
        """Return the indices of the true entries, ascending, of which there are ``count``.

        Args:
            mask: bools, on the backend.
            count: how many of them are true, known beforehand; another number gives arbitrary results.
        """
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
    """Return the backend's own :class:`Counting`, or one made of its other operations.

    Args:
        arrays: a backend's operations, with or without an attribute ``counting``.
    """
    own: Counting | None = getattr(arrays, "counting", None)
    return DefaultCounting(arrays) if own is None else own


class Host(Protocol):
    """What a backend may add whose arrays are in the memory of the host, so that NumPy makes passes over all weights.

    A backend that has it offers it as its attribute ``host``; :meth:`Arrays.to_numpy` then shares the memory.
    """

    @property
    def threads(self) -> int:
        """How many threads compute."""
        ...

    @property
    def arrays(self) -> Arrays:
        """NumPy's operations."""
        ...

    def share(self, array: NDArray[Any]) -> Array:
        """Return an array of the backend that shares the memory of this one."""
        ...


def host_of(arrays: Arrays) -> Host | None:
    """Return the backend's :class:`Host`; None where it computes by its own operations alone."""
    own: Host | None = getattr(arrays, "host", None)
    return own


def waits_for_device(arrays: Arrays) -> bool:
    """Return whether the host waits for a device when it reads what the backend has computed.

    Args:
        arrays: a backend's operations; those on a device have an attribute ``counting``.
    """
    return getattr(arrays, "counting", None) is not None


Gradient: TypeAlias = Callable[[str], Array]
"""A function from a tensor's name to its dense gradient: D_i entries, active or not, row-major, read-only."""

WeightMomentum: TypeAlias = Callable[[str], Array | None]
"""A function from a tensor's name to the optimizer's momentum of its active weights, read-only; None where it has none.

One entry for each of ``topology.slots(name)``.
"""

InputNorms: TypeAlias = Callable[[str], Array]
"""A function from a tensor's name to the ℓ2 norms of its layer's inputs in the latest step, over examples and pixels.

One entry for each index of the tensor's second axis, of a vector for each position; of a grouped convolution one for
each input channel, group by group. Read-only.
"""

DenseValues: TypeAlias = Callable[[str], Array]
"""A function from a tensor's name to its values: D_i entries, active or not, row-major, read-only."""


Counts: TypeAlias = NDArray[np.int64]
"""Numbers of weights, one a tensor, in the order of ``layout.names``; on the host."""


def constant(counts: Counts) -> Counts:
    """Make a NumPy array read-only, in place, and return it.

    Args:
        counts: an array that nothing else writes to; its views keep their own flag.
    """
    counts.flags.writeable = False
    return counts


def is_known_to_numpy(array: object) -> bool:
    """Return whether an array of any backend has a dtype of NumPy's, as bfloat16 is not.

    Args:
        array: see :func:`dtype_name`.
    """
    return dtype_name(array) in _OF_NUMPY


_OF_NUMPY = frozenset({"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"})


def dtype_name(array: object) -> str:
    """Return the name that NumPy has for the dtype of an array of any backend.

    Args:
        array: of NumPy or torch, or anything else with a ``dtype``.

    Returns:
        For example 'float32', also for ``torch.float32``; 'None' for an object without a dtype.
    """
    return str(getattr(array, "dtype", None)).removeprefix("torch.")


def describe(given: object) -> str:
    """Describe a value for an error message: an array by its dtype and shape, anything else as it prints.

    Args:
        given: what a caller or a hook has given in place of what was expected.

    Returns:
        For example "ndarray of float32, shape (3,)"; no entry of an array is read.
    """
    shape = getattr(given, "shape", None)
    return f"{type(given).__name__} of {dtype_name(given)}, shape {tuple(shape)}" if shape is not None else repr(given)
