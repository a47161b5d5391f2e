"""Reading pickled arrays without running any code that the file names.

A pickle calls the functions that it names. Here each name that arrays are pickled with, by Python 2 and by old and new
NumPy, is replaced by a class that only stores its arguments; all other names are refused. NumPy's own constructors are
replaced, too, as they trust damaged dtypes. The arrays are built afterwards, from plain bytes.
"""

import io
import pickle
import re
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.files import readable
from sparsecore.errors import InputError


def read_pickle(content: bytes, source: object) -> dict[Any, Any]:
    """Read a pickled dict of bytes, str, int, lists, dicts, and values that :func:`array_of` turns into arrays.

    Strings of Python 2 become bytes.

    Args:
        content: the pickle.
        source: its name in errors.

    Raises:
        InputError: the pickle names anything else, is damaged, or is not of a dict.
    """
    with readable(source):
        result = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    if type(result) is not dict:
        raise InputError(f"{source} is a pickle of a {type(result).__name__}, expected a dict")
    return result


def array_of(entry: object, source: object) -> NDArray[Any]:
    """The pickled array, or an array of a list of numbers.

    Args:
        entry: a value of the dict that :func:`read_pickle` returned.
        source: its name in errors.

    Returns:
        The array in its pickled dtype and shape; (n,) of a list of n numbers.

    Raises:
        InputError: it is neither, or its bytes, dtype and shape do not go together.
    """
    with readable(source):
        if isinstance(entry, _Stored | _Array):
            return entry.array()
        numbers = [item.array()[0] if isinstance(item, _Scalar) else item for item in _checked_list(entry)]
        # NumPy would make floats of an empty list
        return np.asarray(numbers) if numbers else np.zeros(0, np.int64)


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler; in the one written in C a damaged memo index takes gigabytes before it fails."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, and only arrays, bytes, numbers, lists and dicts are admitted"
            ) from None


class _Dtype:
    """Replaces ``numpy.dtype``; integers only."""

    def __init__(self, code: bytes | str, *_: object) -> None:
        self.code = _text(code)
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])

    def dtype(self) -> np.dtype[Any]:
        if not re.fullmatch(r"[<>=|][iu][1248]", self.order + self.code):
            raise pickle.UnpicklingError(f"it has an array of dtype {self.order}{self.code}, expected integers")
        return np.dtype(self.order + self.code)


@attrs.define
class _Stored:
    """Replaces ``numpy._core.numeric._frombuffer``, which newer protocols call."""

    content: bytes
    stored_as: _Dtype
    shape: tuple[int, ...]
    order: Any

    def array(self) -> NDArray[Any]:
        return np.frombuffer(self.content, self.stored_as.dtype()).reshape(self.shape, order=self.order)


class _Array:
    """Replaces ``numpy.ndarray``, and for the function that makes an empty one to be filled by its state."""

    def __init__(self, *_: object) -> None:
        self.stored: _Stored | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, stored_as, fortran, content = state
        self.stored = _Stored(content, stored_as, shape, "F" if fortran else "C")

    def array(self) -> NDArray[Any]:
        if self.stored is None:
            raise pickle.UnpicklingError("it has an array without content")
        return self.stored.array()


@attrs.define
class _Scalar:
    """Replaces the function that makes a NumPy number."""

    stored_as: _Dtype
    content: bytes

    def array(self) -> NDArray[Any]:
        return _Stored(self.content, self.stored_as, (1,), "C").array()


_ADMITTED = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy.core.numeric", "_frombuffer"): _Stored,
    # Python 3 writes bytes in the old protocols as a call of encode(text, "latin1"), and b"" as one of bytes()
    ("_codecs", "encode"): bytes,
    ("__builtin__", "bytes"): bytes,
}


def _text(text: bytes | str) -> str:
    return text.decode("ascii") if isinstance(text, bytes) else text


def _checked_list(entry: object) -> list[Any]:
    if not isinstance(entry, list):
        raise pickle.UnpicklingError(f"it has a {type(entry).__name__} where an array or a list was expected")
    return entry
