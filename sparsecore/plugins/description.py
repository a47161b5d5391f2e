"""Strategies and their options as plain values, so that a saved training can be compared with the present one."""

import functools
import hashlib
import inspect
import io
import logging
import math
import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import Enum
from functools import singledispatch
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import attrs
import numpy as np

from sparsecore.engine.registration import MARK

_OBSERVING = frozenset({"reallocated", "metrics"})
"""The hooks of a plugin that only observes: it decides nothing and has no state."""
_DEEPEST = 6


def describe_strategies(strategies: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the class and the options of each strategy that decides something, bottom first.

    Strategies that only observe are left out: with or without them, training is the same. Options are the fields of an
    attrs class or a dataclass, but for those with ``eq=False`` (``compare=False``) or ``init=False``. Of any other
    class they are the attributes of the instance and the class, and what the methods of hooks have captured.

    Args:
        strategies: instances by name, bottom first.

    Returns:
        Dicts of strings, numbers, bools, None, lists and dicts; 'class' is the name of the class.
    """
    return [_of_strategy(strategy) for strategy in strategies.values() if not _hooks(strategy).keys() <= _OBSERVING]


def default_options(strategies: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the options of the same strategies that have a default, with these defaults.

    Args:
        strategies: instances by name, bottom first.

    Returns:
        A dict for each strategy that :func:`describe_strategies` describes; empty for those that are no attrs classes.
    """
    described_ones = (one for one in strategies.values() if not _hooks(one).keys() <= _OBSERVING)
    return [_defaults(type(strategy)) for strategy in described_ones]


def _defaults(kind: type) -> dict[str, Any]:
    fields = attrs.fields(kind) if attrs.has(kind) else ()
    plain = [one for one in fields if one.eq and one.init and not isinstance(one.default, attrs.Factory)]  # type: ignore[arg-type]
    return {
        one.name: described(one.converter(one.default) if one.converter else one.default, 1)
        for one in plain
        if one.default is not attrs.NOTHING
    }


@singledispatch
def described(value: Any, depth: int = 0) -> Any:
    """Return a value as strings, numbers, bools, None, lists and dicts; an object as its class and its options.

    Args:
        value: anything; arrays and functions become digests, tools such as loggers the name of their class.
        depth: how deeply the value is nested in another; beyond 6 levels an object is its class alone, which ends
            circles.

    Returns:
        What JSON can hold, equal for values that make training the same.
    """
    if depth > _DEEPEST:
        return type(value).__name__
    return {"class": type(value).__name__, **_options(value, depth)}


@described.register
def _(value: str | bool | int | None, depth: int = 0) -> Any:  # noqa: ARG001
    return value


@described.register
def _(value: float, depth: int = 0) -> Any:  # noqa: ARG001
    return value if math.isfinite(value) else str(value)


@described.register
def _(value: np.generic, depth: int = 0) -> Any:
    return described(value.item(), depth)


@described.register
def _(value: Enum, depth: int = 0) -> Any:  # noqa: ARG001
    return f"{type(value).__name__}.{value.name}"


@described.register
def _(value: Mapping, depth: int = 0) -> Any:  # type: ignore[type-arg]
    return {str(key): described(content, depth + 1) for key, content in value.items()}


@described.register
def _(value: list | tuple, depth: int = 0) -> Any:  # type: ignore[type-arg]
    return [described(entry, depth + 1) for entry in value]


@described.register
def _(value: Set, depth: int = 0) -> Any:  # type: ignore[type-arg]
    return sorted(str(described(entry, depth + 1)) for entry in value)


@described.register
def _(value: np.ndarray, depth: int = 0) -> Any:  # noqa: ARG001
    digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
    return f"{value.dtype} {value.shape} {digest}"


@described.register
def _(value: bytes | PurePath, depth: int = 0) -> Any:  # noqa: ARG001
    return str(value)


@described.register
def _(value: type, depth: int = 0) -> Any:  # noqa: ARG001
    return value.__name__


@described.register
def _(value: BuiltinFunctionType, depth: int = 0) -> Any:  # noqa: ARG001
    return value.__qualname__


@described.register
def _(value: functools.partial, depth: int = 0) -> Any:  # type: ignore[type-arg]
    return [described(part, depth + 1) for part in (value.func, value.args, value.keywords)]


@described.register
def _(value: MethodType, depth: int = 0) -> Any:
    return [described(value.__func__, depth + 1), described(value.__self__, depth + 1)]


@described.register
def _(value: FunctionType, depth: int = 0) -> Any:
    """Describe a function by its code, its defaults and the variables that it has captured."""
    code = value.__code__
    content = repr((code.co_code, [const for const in code.co_consts if not inspect.iscode(const)], code.co_names))
    captured = _captured(value, depth)
    return [value.__name__, hashlib.sha256(content.encode()).hexdigest()[:16], *([captured] if captured else [])]


@described.register(logging.Logger)
@described.register(io.IOBase)
@described.register(random.Random)
@described.register(np.random.Generator)
def _(value: Any, depth: int = 0) -> Any:  # noqa: ARG001
    """Describe a tool such as a logger by its class alone: it is no option."""
    return type(value).__name__


def _of_strategy(strategy: object) -> dict[str, Any]:
    own: dict[str, Any] = described(strategy)
    if attrs.has(type(strategy)):
        return own
    of_class = {
        name: described(content, 1)
        for name, content in inspect.getmembers_static(type(strategy))
        if not name.startswith("__") and not callable(content) and not inspect.isdatadescriptor(content)
    }
    captured = {hook: _captured(method, 1) for hook, method in _hooks(strategy).items()}
    return {**of_class, **own, **{f"captured by {hook}": one for hook, one in captured.items() if one}}


def _hooks(strategy: object) -> dict[str, Any]:
    """Return the methods that are marked as hooks, as the class defines them."""
    members = inspect.getmembers_static(strategy)
    functions = {name: getattr(member, "__func__", member) for name, member in members}
    return {name: function for name, function in functions.items() if hasattr(function, MARK)}


def _options(value: Any, depth: int) -> dict[str, Any]:
    kind = type(value)
    if attrs.has(kind):
        names = [field.name for field in attrs.fields(kind) if field.eq and field.init]
    elif is_dataclass(kind):
        names = [field.name for field in dataclass_fields(kind) if field.compare and field.init]
    else:
        names = [*getattr(value, "__dict__", {}), *_slots(kind)]
    return {name: described(getattr(value, name, None), depth + 1) for name in names}


def _slots(kind: type) -> list[str]:
    slots = [getattr(base, "__slots__", ()) for base in kind.__mro__]
    names: list[str] = [name for own in slots for name in ((own,) if isinstance(own, str) else own)]
    return [name for name in names if not name.startswith("__")]


def _captured(function: Any, depth: int) -> dict[str, Any]:
    """Return the values of a function's defaults and of its captured variables."""
    names: Sequence[str] = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    around = {
        name: described(cell.cell_contents, depth + 1)
        for name, cell in zip(names, cells, strict=True)
        if name != "__class__" and not _is_empty(cell)
    }
    defaults = getattr(function, "__defaults__", None)
    return {**around, **({"defaults": described(defaults, depth + 1)} if defaults else {})}


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True
