"""Array operations on JAX's arrays, which decide on the host, with the same results as NumPy's.

JAX's own operators cannot serve the engine: outside ``jax.enable_x64`` they turn positions of 64 bits into 32, XLA
flushes denormal numbers to zero on the CPU, so that weights compare as equal that are not, and it compiles each
operation again for each length, where the lengths of an update are others each time. So a :class:`JaxArray` keeps an
array of JAX as it is, on its device, until an operation reads its entries. On the CPU this copies nothing.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsecore.host.arrays import NumpyArrays

if TYPE_CHECKING:
    import jax

Operand: TypeAlias = Any
"""A :class:`JaxArray`, an array of JAX or NumPy, or a number."""

_HOST = NumpyArrays()


def _on_host(operand: Operand) -> Any:
    """Return the entries of an array as a NumPy array, and anything else, such as a number or a slice, as it is."""
    if isinstance(operand, JaxArray):
        return operand.host
    return np.asarray(operand) if hasattr(operand, "__array__") else operand


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@attrs.define(eq=False, repr=False)
class JaxArray:
    """An immutable vector of the JAX backend; implements :class:`sparsecore.engine.arrays.Array`.

    Its operators work entry by entry on the host and return new vectors, exactly as NumPy's do.

    Attributes:
        entries: an array of JAX on any device, which must not be donated as long as this one is used, or an array of
            NumPy that nothing writes to.
    """

    __array_ufunc__ = None  # so that NumPy's arrays and numbers leave operators to this class
    __hash__ = None  # type: ignore[assignment]  # it compares entry by entry

    entries: "jax.Array | NDArray[Any]" = attrs.field(on_setattr=attrs.setters.frozen)
    _host: NDArray[Any] | None = attrs.field(default=None, init=False)

    @property
    def host(self) -> NDArray[Any]:
        """The entries as a read-only NumPy array; the host waits for the device once. On the CPU nothing is copied."""
        if self._host is None:
            self._host = _read_only(np.asarray(self.entries))
        return self._host

    def on_device(self, device: Any = None) -> "jax.Array":
        """Return the entries as an array of JAX, bit for bit, in the same dtype also where that has 64 bits.

        Args:
            device: a device or a sharding of JAX; None for the one that the entries are on, or JAX's default.
        """
        import jax

        if device is None and isinstance(self.entries, jax.Array):
            return self.entries
        with jax.enable_x64(True):
            return jax.device_put(self.entries, device)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of entries along each axis; no entry is read."""
        return tuple(self.entries.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the entries, as NumPy names it; no entry is read."""
        return np.dtype(self.entries.dtype)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"JaxArray({self.host!r})"

    def __int__(self) -> int:
        return int(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)  # an error where there are several entries, as with NumPy

    def __getitem__(self, index: Any, /) -> "JaxArray":
        return _wrapped(self.host[_on_host(index)])

    def __abs__(self) -> "JaxArray":
        return _wrapped(abs(self.host))

    def __neg__(self) -> "JaxArray":
        return _wrapped(-self.host)

    def __invert__(self) -> "JaxArray":
        return _wrapped(~self.host)

    def __add__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host + _on_host(other))

    def __radd__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(_on_host(other) + self.host)

    def __sub__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host - _on_host(other))

    def __rsub__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(_on_host(other) - self.host)

    def __mul__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host * _on_host(other))

    def __rmul__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(_on_host(other) * self.host)

    def __truediv__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host / _on_host(other))

    def __floordiv__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host // _on_host(other))

    def __mod__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host % _on_host(other))

    def __and__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host & _on_host(other))

    def __or__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host | _on_host(other))

    def __eq__(self, other: Operand, /) -> "JaxArray":  # type: ignore[override]
        return _wrapped(self.host == _on_host(other))

    def __ne__(self, other: Operand, /) -> "JaxArray":  # type: ignore[override]
        return _wrapped(self.host != _on_host(other))

    def __lt__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host < _on_host(other))

    def __le__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host <= _on_host(other))

    def __gt__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host > _on_host(other))

    def __ge__(self, other: Operand, /) -> "JaxArray":
        return _wrapped(self.host >= _on_host(other))


def _wrapped(entries: Any) -> JaxArray:
    return JaxArray(np.asarray(entries))


def _comparable(array: Operand) -> NDArray[Any]:
    """Return the entries in a dtype that NumPy orders with NaN last: not those of 16 bits that are JAX's own."""
    host: NDArray[Any] = _on_host(array)
    return host.astype(np.float32) if host.dtype.kind == "V" else host


@attrs.frozen
class JaxArrays:
    """Array operations on :class:`JaxArray`; implements :class:`sparsecore.engine.arrays.Arrays`.

    All but :meth:`from_numpy` also take arrays of JAX itself.
    """

    def from_numpy(self, array: NDArray[Any]) -> JaxArray:
        """Return a vector with these entries, a copy unless nothing can write to the array."""
        return JaxArray(array.copy() if array.flags.writeable or array.base is not None else array)

    def to_numpy(self, array: Operand) -> NDArray[Any]:
        """Return the entries on the host, read-only."""
        host: NDArray[Any] = _on_host(array)
        return host

    def readonly(self, array: Operand) -> JaxArray:
        """Return the vector itself, which is immutable."""
        return array if isinstance(array, JaxArray) else JaxArray(array)

    def arange(self, count: int, dtype: DTypeLike) -> JaxArray:
        """Return 0, 1, ..., count-1."""
        return JaxArray(_HOST.arange(count, dtype))

    def zeros_like(self, array: Operand, count: int) -> JaxArray:
        """Return ``count`` zeros of the dtype and the trailing shape of ``array``."""
        return JaxArray(np.zeros((count, *array.shape[1:]), array.dtype))

    def cast(self, array: Operand, dtype: DTypeLike) -> JaxArray:
        """Return the same entries in another dtype."""
        return JaxArray(_HOST.cast(_on_host(array), dtype))

    def take(self, array: Operand, indices: Operand) -> JaxArray:
        """Return ``array[indices]`` along the first axis."""
        return _of_host(_HOST.take, array, indices)

    def put(self, array: Operand, indices: Operand, entries: Operand) -> JaxArray:
        """Return a copy of ``array`` with ``entries`` at ``indices``."""
        return _of_host(_HOST.put, array, indices, entries)

    def where(self, condition: Operand, yes: Operand, no: Operand) -> JaxArray:
        """Return ``yes`` where the condition holds, else ``no``, entry by entry."""
        return _of_host(_HOST.where, condition, yes, no)

    def nonzero(self, mask: Operand) -> JaxArray:
        """Return the indices of the true entries, ascending."""
        return _of_host(_HOST.nonzero, mask)

    def concatenate(self, parts: Sequence[Operand]) -> JaxArray:
        """Return the parts end to end."""
        return JaxArray(_HOST.concatenate([_on_host(part) for part in parts]))

    def sort(self, array: Operand) -> JaxArray:
        """Return the entries in ascending order."""
        return JaxArray(_HOST.sort(_comparable(array)).astype(array.dtype, copy=False))

    def argsort(self, array: Operand) -> JaxArray:
        """Return the indices that sort ascending; equal entries keep their order."""
        return JaxArray(_HOST.argsort(_comparable(array)))

    def smallest_indices(self, array: Operand, count: int) -> JaxArray:
        """Return the indices of the ``count`` smallest entries, ascending; of equal entries the lowest."""
        return JaxArray(_HOST.smallest_indices(_comparable(array), count))

    def searchsorted(self, sorted_array: Operand, queries: Operand, side: Literal["left", "right"]) -> JaxArray:
        """Return the index at which each query would be inserted into the ascending ``sorted_array``."""
        return JaxArray(_HOST.searchsorted(_comparable(sorted_array), _comparable(queries), side))

    def all_finite(self, array: Operand) -> bool:
        """Return whether no entry is NaN or infinite."""
        return _HOST.all_finite(_on_host(array))


def _of_host(operation: Callable[..., NDArray[Any]], *operands: Operand) -> JaxArray:
    return JaxArray(operation(*map(_on_host, operands)))
