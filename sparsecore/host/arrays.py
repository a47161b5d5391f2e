"""The array operations of the engine on NumPy: those of the host backends, and the reference for all others."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsecore.engine.selection import smallest_indices

AnyArray = NDArray[Any]


@attrs.frozen
class NumpyArrays:
    """Implements :class:`sparsecore.engine.arrays.Arrays` on NumPy arrays, and :class:`sparsecore.engine.arrays.Host`.

    Attributes:
        threads: one.
    """

    threads: ClassVar[int] = 1

    @property
    def host(self) -> "NumpyArrays":
        """These operations themselves."""
        return self

    @property
    def arrays(self) -> "NumpyArrays":
        """These operations themselves."""
        return self

    def share(self, array: AnyArray) -> AnyArray:
        """Return the array itself."""
        return array

    def from_numpy(self, array: AnyArray) -> AnyArray:
        """Return the array itself."""
        return array

    def to_numpy(self, array: AnyArray) -> AnyArray:
        """Return the array itself."""
        return array

    def readonly(self, array: AnyArray) -> AnyArray:
        """Return a read-only view."""
        view = array.view()
        view.flags.writeable = False
        return view

    def arange(self, count: int, dtype: DTypeLike) -> AnyArray:
        """0, 1, ..., count-1."""
        return np.arange(count, dtype=dtype)

    def zeros_like(self, array: AnyArray, count: int) -> AnyArray:
        """``count`` zeros of the dtype and the trailing shape of ``array``."""
        return np.zeros((count, *array.shape[1:]), array.dtype)

    def cast(self, array: AnyArray, dtype: DTypeLike) -> AnyArray:
        """Return the same entries in another dtype."""
        return array.astype(dtype, copy=False)

    def take(self, array: AnyArray, indices: AnyArray) -> AnyArray:
        """``array[indices]`` along the first axis."""
        return np.asarray(array.take(indices, axis=0))

    def put(self, array: AnyArray, indices: AnyArray, entries: AnyArray) -> AnyArray:
        """Return a copy of ``array`` with ``entries`` at ``indices``."""
        copy = array.copy()
        copy[indices] = entries
        return copy

    def where(self, condition: AnyArray, yes: AnyArray, no: AnyArray) -> AnyArray:
        """``yes`` where the condition holds, else ``no``, entry by entry."""
        return np.where(condition, yes, no)

    def nonzero(self, mask: AnyArray) -> AnyArray:
        """Indices of the true entries, ascending."""
        return np.flatnonzero(mask)

    def concatenate(self, parts: Sequence[AnyArray]) -> AnyArray:
        """Return the parts end to end."""
        return np.concatenate(parts)

    def sort(self, array: AnyArray) -> AnyArray:
        """Return the entries in ascending order."""
        return np.sort(array, kind="stable")  # merges the sorted runs that the engine concatenates

    def argsort(self, array: AnyArray) -> AnyArray:
        """Indices that sort ascending; equal entries keep their order."""
        return np.argsort(array, kind="stable")

    def smallest_indices(self, array: AnyArray, count: int) -> NDArray[np.intp]:
        """Indices of the ``count`` smallest entries, ascending; of equal entries the lowest."""
        return smallest_indices(array, count)

    def searchsorted(
        self, sorted_array: AnyArray, queries: AnyArray, side: Literal["left", "right"]
    ) -> NDArray[np.intp]:
        """Return the index at which each query would be inserted into the ascending ``sorted_array``."""
        return np.searchsorted(sorted_array, queries, side)

    def all_finite(self, array: AnyArray) -> bool:
        """Return whether no entry is NaN or infinite."""
        return bool(np.isfinite(array).all())
