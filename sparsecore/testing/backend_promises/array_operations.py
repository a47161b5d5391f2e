"""Promises about array operations: each agrees with its definition, on arrays that often reveal mistakes."""

import math
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from sparsecore.engine.arrays import Arrays
from sparsecore.testing.backend_promises.training_scenarios import HostArray, errors_break_promise
from sparsecore.testing.promises import Promise, expect
from sparsecore.testing.subjects import BackendSubject

_FLOATS = (0.0, -0.0, 0.25, -0.25, 1.0, -1.0, 1e-40, 1.4e-45, -5.0, 3e38)
_NON_FINITE = (math.nan, math.inf, -math.inf)
_DTYPES = ("float32", "float64", "int32", "int64", "int8", "bool")


@st.composite
def host_arrays(
    draw: DrawFn, dtypes: Sequence[str] = _DTYPES, min_size: int = 0, *, non_finite: bool = False
) -> HostArray:
    """Draw short vectors with ties, zeros of both signs and denormal numbers.

    Args:
        draw: given by hypothesis.
        dtypes: the dtypes to choose from.
        min_size: the smallest number of entries.
        non_finite: whether there may be NaN and infinities.
    """
    dtype = draw(st.sampled_from(dtypes))
    number: SearchStrategy[Any] = st.sampled_from(_FLOATS + _NON_FINITE * non_finite)
    number = number if dtype.startswith("float") else st.integers(0, 1) if dtype == "bool" else st.integers(-3, 3)
    return np.array(draw(st.lists(number, min_size=min_size, max_size=12)), np.float64).astype(dtype)


_NEAR_ZERO = (0.0, -0.0, 1e-40, -1e-40, 1.4e-45, 0.25)
"""Zeros of both signs, denormal numbers of float32, and one number that is none."""


def _ordered_arrays(dtypes: Sequence[str] = _DTYPES, *, non_finite: bool = False) -> SearchStrategy[HostArray]:
    """Draw arrays whose order is to be found; half of them have float32 numbers that are equal if flushed to zero."""
    near_zero = st.lists(st.sampled_from(_NEAR_ZERO + _NON_FINITE * non_finite), max_size=12)
    return host_arrays(dtypes, non_finite=non_finite) | near_zero.map(lambda entries: np.array(entries, np.float32))


@st.composite
def _with_indices(draw: DrawFn, *, distinct: bool = False) -> tuple[HostArray, HostArray]:
    array = draw(host_arrays(min_size=1))
    indices = draw(st.lists(st.integers(0, len(array) - 1), max_size=12, unique=distinct))
    return array, np.array(indices, np.int64)


@st.composite
def _puts(draw: DrawFn) -> tuple[Any, ...]:
    array, indices = draw(_with_indices(distinct=True))
    return array, indices, draw(st.sampled_from(array.tolist())) if draw(st.booleans()) else array[indices][::-1].copy()


@st.composite
def _wheres(draw: DrawFn) -> tuple[HostArray, HostArray, Any]:
    yes = draw(host_arrays(min_size=1))
    flags = draw(st.lists(st.booleans(), min_size=len(yes), max_size=len(yes)))
    return np.array(flags), yes, draw(st.sampled_from(yes.tolist())) if draw(st.booleans()) else yes[::-1].copy()


@st.composite
def _parts(draw: DrawFn) -> tuple[list[HostArray]]:
    dtype = draw(st.sampled_from(_DTYPES))
    return (draw(st.lists(host_arrays([dtype]), min_size=1, max_size=3)),)


@st.composite
def _searches(draw: DrawFn) -> tuple[HostArray, HostArray, str]:
    array = np.sort(draw(_ordered_arrays(("int32", "int64", "float32"))))
    queries = draw(st.lists(st.sampled_from(array.tolist()), max_size=12) if len(array) else st.just([]))
    others = draw(host_arrays([array.dtype.name]))
    return array, np.concatenate([np.array(queries, array.dtype), others]), draw(st.sampled_from(["left", "right"]))


@st.composite
def _selections(draw: DrawFn) -> tuple[HostArray, int]:
    array = draw(_ordered_arrays(non_finite=True))
    return array, draw(st.integers(0, len(array)))


def _put(array: HostArray, indices: HostArray, entries: Any) -> list[Any]:
    result: list[Any] = array.tolist()
    for i, index in enumerate(indices.tolist()):
        result[index] = entries.tolist()[i] if isinstance(entries, np.ndarray) else entries
    return result


def _where(flags: HostArray, yes: HostArray, no: Any) -> list[Any]:
    others = no.tolist() if isinstance(no, np.ndarray) else [no] * len(yes)
    return [one if flag else other for flag, one, other in zip(flags, yes.tolist(), others, strict=True)]


def _smallest(array: HostArray, count: int) -> list[int]:
    entries = array.tolist()
    return sorted(sorted(range(len(entries)), key=lambda i: (math.isnan(entries[i]), entries[i]))[:count])


def _search(array: HostArray, queries: HostArray, side: str) -> list[int]:
    bisect = {"left": bisect_left, "right": bisect_right}[side]
    return [bisect(array.tolist(), query) for query in queries.tolist()]


@attrs.frozen
class _Operation:
    """An array operation.

    Attributes:
        sentence: what it does, after its name.
        arguments: a hypothesis strategy for its arguments, as arrays of NumPy.
        definition: its definition on lists.
        dtype: returns the dtype of its result from its arguments; None if it is not checked.
    """

    sentence: str
    arguments: SearchStrategy[tuple[Any, ...]]
    definition: Callable[..., Any]
    dtype: Callable[..., Any] | None = None


def _first(array: HostArray, *_: Any) -> Any:
    return array.dtype


_ONE = host_arrays().map(lambda array: (array,))
_ONE_ORDERED = _ordered_arrays().map(lambda array: (array,))

_OPERATIONS: Mapping[str, _Operation] = MappingProxyType(
    {
        "readonly": _Operation("returns the same entries", _ONE, lambda a: a.tolist(), _first),
        "arange": _Operation(
            "counts from 0",
            st.tuples(st.integers(0, 9), st.sampled_from(["int32", "int64"])),
            lambda count, _: list(range(count)),
            lambda _, dtype: np.dtype(dtype),
        ),
        "zeros_like": _Operation(
            "returns zeros of the same dtype", st.tuples(host_arrays(), st.integers(0, 9)), lambda _, n: [0] * n, _first
        ),
        "cast": _Operation(
            "returns the same numbers in another dtype",
            st.tuples(host_arrays(("int32", "int8", "bool")), st.sampled_from(["float32", "float64", "int64"])),
            lambda array, _: array.tolist(),
            lambda _, dtype: np.dtype(dtype),
        ),
        "take": _Operation(
            "returns the entries at the indices",
            _with_indices(),
            lambda a, at: [a.tolist()[i] for i in at.tolist()],
            _first,
        ),
        "put": _Operation("returns a copy with other entries at the indices", _puts(), _put, _first),
        "where": _Operation(
            "chooses entry by entry",
            _wheres(),
            _where,
            lambda _, yes, __: yes.dtype,
        ),
        "nonzero": _Operation(
            "returns the indices of the true entries, ascending",
            host_arrays(("bool",)).map(lambda array: (array,)),
            lambda array: [i for i, flag in enumerate(array.tolist()) if flag],
        ),
        "concatenate": _Operation(
            "joins the arrays",
            _parts(),
            lambda parts: reduce(operator.add, (p.tolist() for p in parts)),
            lambda p: p[0].dtype,
        ),
        "sort": _Operation(
            "returns the entries in ascending order", _ONE_ORDERED, lambda array: sorted(array.tolist()), _first
        ),
        "argsort": _Operation(
            "sorts stably: equal entries keep their order",
            _ONE_ORDERED,
            lambda array: sorted(range(len(array)), key=array.tolist().__getitem__),
        ),
        "smallest_indices": _Operation(
            "returns the indices of the smallest entries, ascending; of equal ones the first, and NaN last",
            _selections(),
            _smallest,
        ),
        "searchsorted": _Operation(
            "returns where each query would be inserted, on the given side", _searches(), _search
        ),
        "all_finite": _Operation(
            "detects NaN and infinities",
            host_arrays(("float32", "float64"), non_finite=True).map(lambda array: (array,)),
            lambda array: bool(all(math.isfinite(entry) for entry in array.tolist())),
        ),
    }
)


@attrs.frozen
class Call:
    """The arguments of an array operation.

    Attributes:
        arguments: in the order of the operation's parameters; arrays are of NumPy.
    """

    arguments: tuple[Any, ...]


@errors_break_promise
def _check_operation(name: str, subject: BackendSubject, call: Call) -> None:
    operation, arrays = _OPERATIONS[name], subject.backend.arrays
    arguments = tuple(_to_backend(arrays, argument) for argument in call.arguments)
    result = _to_host(arrays, getattr(arrays, name)(*arguments))
    expected = operation.definition(*call.arguments)
    sentence = f"{name}{call.arguments} returns {_entries(result)} instead of {expected}"
    if not isinstance(expected, list):
        expect(isinstance(result, bool) and result == expected, sentence)
        return
    expect(np.array_equal(result, np.array(expected, result.dtype)) and len(result) == len(expected), sentence)
    if operation.dtype is not None:
        dtype = operation.dtype(*call.arguments)
        expect(result.dtype == dtype, f"{name}{call.arguments} returns {result.dtype} instead of {dtype}")
    for argument, original in zip(arguments, call.arguments, strict=True):
        unchanged = _is_same(_to_host(arrays, argument), original)
        expect(unchanged, f"{name}{call.arguments} has changed an argument in place")


def _to_backend(arrays: Arrays, argument: Any) -> Any:
    if isinstance(argument, list):
        return [_to_backend(arrays, part) for part in argument]
    return arrays.from_numpy(argument.copy()) if isinstance(argument, np.ndarray) else argument


def _to_host(arrays: Arrays, result: Any) -> Any:
    if isinstance(result, list):
        return [_to_host(arrays, part) for part in result]
    return arrays.to_numpy(result) if hasattr(result, "shape") and not isinstance(result, np.generic) else result


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return all(_is_same(first, second) for first, second in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return bool(one.tobytes() == other.tobytes())
    return True


def _entries(result: Any) -> Any:
    return result.tolist() if isinstance(result, np.ndarray) else result


@errors_break_promise
def _check_round_trip(subject: BackendSubject, array: HostArray) -> None:
    arrays = subject.backend.arrays
    again = arrays.to_numpy(arrays.from_numpy(array.copy()))
    expect(again.dtype == array.dtype and again.tobytes() == array.tobytes(), f"{array!r} comes back as {again!r}")


@errors_break_promise
def _check_operators(subject: BackendSubject, pair: tuple[HostArray, HostArray]) -> None:
    arrays = subject.backend.arrays
    one, other = (arrays.from_numpy(array.copy()) for array in pair)
    for name, apply in _OPERATORS.items():
        with np.errstate(over="ignore"):
            result, expected = arrays.to_numpy(apply(one, other)), apply(*pair)
        expect(
            np.array_equal(result, expected) and result.dtype == expected.dtype,
            f"{name} of {pair} is {result} instead of {expected}",
        )


_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "abs(a)": lambda a, _: abs(a),
        "-a": lambda a, _: -a,
        "a + b": lambda a, b: a + b,
        "a - b": lambda a, b: a - b,
        "a * b": lambda a, b: a * b,
        "a < b": lambda a, b: a < b,
        "a >= b": lambda a, b: a >= b,
        "a == b": lambda a, b: a == b,
        "a > 0.25": lambda a, _: a > 0.25,
        "(a > 0) & ~(b > 0) | (a == b)": lambda a, b: (a > 0) & ~(b > 0) | (a == b),
        "a[1:]": lambda a, _: a[1:],
    }
)


def _pairs(_: BackendSubject) -> SearchStrategy[tuple[HostArray, HostArray]]:
    return host_arrays(("float32", "float64"), min_size=1).map(lambda array: (array, array[::-1].copy()))


def _calls(name: str, _: BackendSubject) -> SearchStrategy[Call]:
    return _OPERATIONS[name].arguments.map(Call)


ARRAY_OPERATIONS = (
    Promise(
        "to-and-from-numpy",
        "arrays come back from the backend bit for bit",
        lambda _: host_arrays(non_finite=True),
        _check_round_trip,
    ),
    *(
        Promise(
            name.replace("_", "-"),
            f"{name} {operation.sentence}",
            partial(_calls, name),
            partial(_check_operation, name),
        )
        for name, operation in _OPERATIONS.items()
    ),
    Promise("operators", "arithmetic, comparisons, slices and logic are those of NumPy", _pairs, _check_operators),
)
