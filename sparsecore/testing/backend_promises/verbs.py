"""Each array verb against its definition, on arrays that break things."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from hypothesis.strategies import SearchStrategy

from sparsecore.arrays import Arrays
from sparsecore.testing.backend_promises.definitions import DEFINITIONS, Host, host_arrays
from sparsecore.testing.backend_promises.guarding import guarded
from sparsecore.testing.backend_subjects import BackendSubject
from sparsecore.testing.promises import Promise, expect


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
    for name, operator in _OPERATORS.items():
        with np.errstate(over="ignore"):
            got, expected = arrays.to_numpy(operator(one, other)), operator(*pair)
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
