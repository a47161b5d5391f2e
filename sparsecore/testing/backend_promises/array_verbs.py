"""Each array verb against its definition, on arrays that break things."""

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
from numpy.typing import NDArray

from sparsecore.engine.arrays import Arrays
from sparsecore.testing.backend_promises.exercises import guarded
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.promises import Promise, expect

Host = NDArray[Any]

_FLOATS = (0.0, -0.0, 0.25, -0.25, 1.0, -1.0, 1e-40, 1.4e-45, -5.0, 3e38)
_STRANGE = (math.nan, math.inf, -math.inf)
_DTYPES = ("float32", "float64", "int32", "int64", "int8", "bool")


@st.composite
def host_arrays(draw: DrawFn, dtypes: Sequence[str] = _DTYPES, min_size: int = 0, *, strange: bool = False) -> Host:
    """Short arrays with ties, zeros of both signs and denormal numbers; strange ones have NaN and infinities too."""
    dtype = draw(st.sampled_from(dtypes))
    number: SearchStrategy[Any] = st.sampled_from(_FLOATS + _STRANGE * strange)
    number = number if dtype.startswith("float") else st.integers(0, 1) if dtype == "bool" else st.integers(-3, 3)
    return np.array(draw(st.lists(number, min_size=min_size, max_size=12)), np.float64).astype(dtype)


@st.composite
def _with_indices(draw: DrawFn, *, distinct: bool = False) -> tuple[Host, Host]:
    array = draw(host_arrays(min_size=1))
    places = draw(st.lists(st.integers(0, len(array) - 1), max_size=12, unique=distinct))
    return array, np.array(places, np.int64)


@st.composite
def _puts(draw: DrawFn) -> tuple[Any, ...]:
    array, places = draw(_with_indices(distinct=True))
    return array, places, draw(st.sampled_from(array.tolist())) if draw(st.booleans()) else array[places][::-1].copy()


@st.composite
def _wheres(draw: DrawFn) -> tuple[Host, Host, Host]:
    yes = draw(host_arrays(min_size=1))
    flags = draw(st.lists(st.booleans(), min_size=len(yes), max_size=len(yes)))
    return np.array(flags), yes, yes[::-1].copy()


@st.composite
def _parts(draw: DrawFn) -> tuple[list[Host]]:
    dtype = draw(st.sampled_from(_DTYPES))
    return (draw(st.lists(host_arrays([dtype]), min_size=1, max_size=3)),)


@st.composite
def _searches(draw: DrawFn) -> tuple[Host, Host, str]:
    dtype = draw(st.sampled_from(("int32", "int64", "float32")))
    array, queries = np.sort(draw(host_arrays([dtype]))), draw(host_arrays([dtype]))
    return array, queries, draw(st.sampled_from(["left", "right"]))


def _put(array: Host, places: Host, entries: Any) -> list[Any]:
    listed: list[Any] = array.tolist()
    for i, place in enumerate(places.tolist()):
        listed[place] = entries.tolist()[i] if isinstance(entries, np.ndarray) else entries
    return listed


def _search(array: Host, queries: Host, side: str) -> list[int]:
    bisect = {"left": bisect_left, "right": bisect_right}[side]
    return [bisect(array.tolist(), query) for query in queries.tolist()]


@attrs.frozen
class Verb:
    """What a verb is: its sentence, its arguments, its definition on the host, and the dtype of its answer."""

    sentence: str
    arguments: SearchStrategy[tuple[Any, ...]]
    definition: Callable[..., Any]
    dtype: Callable[..., Any] | None = None


def _first(array: Host, *_: Any) -> Any:
    return array.dtype


_ONE = host_arrays().map(lambda array: (array,))

DEFINITIONS: Mapping[str, Verb] = MappingProxyType(
    {
        "shown": Verb("shows the same entries", _ONE, lambda a: a.tolist(), _first),
        "arange": Verb(
            "counts from 0",
            st.tuples(st.integers(0, 9), st.sampled_from(["int32", "int64"])),
            lambda count, _: list(range(count)),
            lambda _, dtype: np.dtype(dtype),
        ),
        "zeros_like": Verb(
            "is zeros of the same dtype", st.tuples(host_arrays(), st.integers(0, 9)), lambda _, n: [0] * n, _first
        ),
        "cast": Verb(
            "is the same numbers in another dtype",
            st.tuples(host_arrays(("int32", "int8", "bool")), st.sampled_from(["float32", "float64", "int64"])),
            lambda array, _: array.tolist(),
            lambda _, dtype: np.dtype(dtype),
        ),
        "take": Verb(
            "is the entries at the indices", _with_indices(), lambda a, at: [a.tolist()[i] for i in at.tolist()], _first
        ),
        "put": Verb("is a copy with other entries at the indices", _puts(), _put, _first),
        "where": Verb(
            "chooses entry by entry",
            _wheres(),
            lambda flags, yes, no: [
                y if flag else n for flag, y, n in zip(flags, yes.tolist(), no.tolist(), strict=True)
            ],
            lambda _, yes, __: yes.dtype,
        ),
        "nonzero": Verb(
            "is the indices of true entries, ascending",
            host_arrays(("bool",)).map(lambda array: (array,)),
            lambda array: [i for i, flag in enumerate(array.tolist()) if flag],
        ),
        "concatenate": Verb(
            "is the parts end to end",
            _parts(),
            lambda parts: reduce(operator.add, (p.tolist() for p in parts)),
            lambda p: p[0].dtype,
        ),
        "sort": Verb("is ascending", _ONE, lambda array: sorted(array.tolist()), _first),
        "argsort": Verb(
            "sorts, and equal entries keep their order",
            _ONE,
            lambda array: sorted(range(len(array)), key=array.tolist().__getitem__),
        ),
        "searchsorted": Verb("is where each query would be inserted, at the given side", _searches(), _search),
        "all_finite": Verb(
            "finds NaN and infinities",
            host_arrays(("float32", "float64"), strange=True).map(lambda array: (array,)),
            lambda array: bool(all(math.isfinite(entry) for entry in array.tolist())),
        ),
    }
)


@attrs.frozen
class Call:
    """A verb's arguments; arrays are host arrays."""

    arguments: tuple[Any, ...]


@guarded
def _check_verb(name: str, subject: BackendSubject, call: Call) -> None:
    verb, arrays = DEFINITIONS[name], subject.backend.arrays
    there = tuple(_on(arrays, argument) for argument in call.arguments)
    answer = _back(arrays, getattr(arrays, name)(*there))
    expected = verb.definition(*call.arguments)
    told = f"{name}{call.arguments} is {_told(answer)}, not {expected}"
    if not isinstance(expected, list):
        expect(isinstance(answer, bool) and answer == expected, told)
        return
    expect(np.array_equal(answer, np.array(expected, answer.dtype)) and len(answer) == len(expected), told)
    if verb.dtype is not None:
        dtype = verb.dtype(*call.arguments)
        expect(answer.dtype == dtype, f"{name}{call.arguments} is of {answer.dtype}, not {dtype}")
    for given, argument in zip(there, call.arguments, strict=True):
        expect(_same(_back(arrays, given), argument), f"{name}{call.arguments} has changed its argument in place")


def _on(arrays: Arrays, argument: Any) -> Any:
    if isinstance(argument, list):
        return [_on(arrays, part) for part in argument]
    return arrays.from_numpy(argument.copy()) if isinstance(argument, np.ndarray) else argument


def _back(arrays: Arrays, answer: Any) -> Any:
    if isinstance(answer, list):
        return [_back(arrays, part) for part in answer]
    return arrays.to_numpy(answer) if hasattr(answer, "shape") and not isinstance(answer, np.generic) else answer


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return all(_same(first, second) for first, second in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return bool(one.tobytes() == other.tobytes())
    return True


def _told(answer: Any) -> Any:
    return answer.tolist() if isinstance(answer, np.ndarray) else answer


@guarded
def _round_trip(subject: BackendSubject, array: Host) -> None:
    arrays = subject.backend.arrays
    again = arrays.to_numpy(arrays.from_numpy(array.copy()))
    expect(again.dtype == array.dtype and again.tobytes() == array.tobytes(), f"{array!r} comes back as {again!r}")


@guarded
def _operators(subject: BackendSubject, pair: tuple[Host, Host]) -> None:
    arrays = subject.backend.arrays
    one, other = (arrays.from_numpy(array.copy()) for array in pair)
    for name, apply in _OPERATORS.items():
        with np.errstate(over="ignore"):
            got, expected = arrays.to_numpy(apply(one, other)), apply(*pair)
        expect(
            np.array_equal(got, expected) and got.dtype == expected.dtype, f"{name} of {pair} is {got}, not {expected}"
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


def _pairs(_: BackendSubject) -> SearchStrategy[tuple[Host, Host]]:
    return host_arrays(("float32", "float64"), min_size=1).map(lambda array: (array, array[::-1].copy()))


def _calls(name: str, _: BackendSubject) -> SearchStrategy[Call]:
    return DEFINITIONS[name].arguments.map(Call)


VERBS = (
    Promise(
        "to-and-from-numpy",
        "arrays come back from the backend bit for bit",
        lambda _: host_arrays(strange=True),
        _round_trip,
    ),
    *(
        Promise(name.replace("_", "-"), f"{name} {verb.sentence}", partial(_calls, name), partial(_check_verb, name))
        for name, verb in DEFINITIONS.items()
    ),
    Promise("operators", "arithmetic, comparisons, slices and logic are NumPy's", _pairs, _operators),
)
