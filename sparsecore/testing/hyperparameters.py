"""Draws instances of any attrs class from the types and validators of its fields."""

import operator
import typing
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar

import attrs
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from sparsecore.engine.schedules import Amount, Cosine, Every, Piecewise, Schedule

T = TypeVar("T")
Field = attrs.Attribute


def hyperparameters(cls: type[T]) -> SearchStrategy[T]:
    """Draw instances of a strategy's class; the one with all defaults is the simplest.

    Fields of type int, float, bool, Literal, Schedule, Every or Amount, and optional ones, are drawn within the bounds
    of their validators (ge, gt, le, lt, in_, optional, and_). If the class refuses what was drawn with a ValueError, it
    is drawn again. A field of another type keeps its default.

    Args:
        cls: an attrs class.

    Returns:
        A hypothesis strategy for instances.

    Raises:
        TypeError: it is no attrs class, or a field that has no default is of a type that cannot be drawn.
    """
    if not attrs.has(cls):
        raise TypeError(f"hyperparameters are those of an attrs class; given {cls!r}")
    types = _types(cls)
    fields = {
        str(field.alias): _field(field, types.get(field.name, field.type)) for field in attrs.fields(cls) if field.init
    }
    return st.fixed_dictionaries(fields).map(partial(_instance, cls))


def _instance(cls: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return cls(**arguments)
    except ValueError:
        reject()  # a condition that is no validator, such as one on two fields


def _types(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception:  # an annotation names something that exists only for type checkers
        return {}


def _field(field: "Field[Any]", kind: Any) -> SearchStrategy[Any]:
    drawn = _drawn(field, kind)
    default = _default(field)
    if default is attrs.NOTHING and drawn is None:
        raise TypeError(f"the field {field.name!r} has no default, and nothing of type {kind} can be drawn")
    if drawn is None:
        return st.just(default)
    # the default of an Amount may be a number of weights, more than most examples have
    return drawn if default is attrs.NOTHING or isinstance(default, Amount) else st.just(default) | drawn


def _default(field: "Field[Any]") -> Any:
    factory = getattr(field.default, "factory", None)
    if factory is None:
        return field.default
    return attrs.NOTHING if getattr(field.default, "takes_self", False) else factory()


def _drawn(field: "Field[Any]", kind: Any) -> SearchStrategy[Any] | None:
    """Return a hypothesis strategy for a field's values; None if its type cannot be drawn."""
    options = [option for part in _parts(field.validator) for option in getattr(part, "options", ())]
    if options:
        return st.sampled_from(options)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if typing.get_origin(kind) in {typing.Union, UnionType}:
        drawn = [one for argument in arguments if (one := _drawn(field, argument)) is not None]
        return st.one_of(drawn) if drawn else None
    return _KINDS[kind](field) if isinstance(kind, type) and kind in _KINDS else None


def _parts(validator: Any) -> list[Any]:
    """Return the validators that a combined validator consists of."""
    if validator is None:
        return []
    inner = getattr(validator, "_validators", None) or getattr(validator, "validator", None)
    if inner is None:
        return [validator]
    return [part for one in (inner if isinstance(inner, list | tuple) else [inner]) for part in _parts(one)]


def _bounds(field: "Field[Any]") -> dict[Any, Any]:
    """Return the tightest bound of each comparison, by its operator."""
    bounds: dict[Any, Any] = {}
    for part in _parts(field.validator):
        compare = getattr(part, "compare_func", None)
        if compare in _TIGHTEST:
            bounds[compare] = _TIGHTEST[compare](bounds.get(compare, part.bound), part.bound)
    return bounds


_TIGHTEST: Mapping[Any, Callable[[Any, Any], Any]] = MappingProxyType(
    {operator.gt: max, operator.ge: max, operator.lt: min, operator.le: min}
)


def _scale(field: "Field[Any]") -> float:
    """Return the largest magnitude of a number without bounds: a multiple of the default."""
    default = _default(field)
    known = isinstance(default, int | float) and not isinstance(default, bool)
    return 10 * abs(default) + 10 if known else 100


def _whole(field: "Field[Any]") -> SearchStrategy[int]:
    bounds, scale = _bounds(field), int(_scale(field))
    lows = [int(bounds[operator.ge])] if operator.ge in bounds else []
    lows += [int(bounds[operator.gt]) + 1] if operator.gt in bounds else []
    highs = [int(bounds[operator.le])] if operator.le in bounds else []
    highs += [int(bounds[operator.lt]) - 1] if operator.lt in bounds else []
    low = max(lows, default=-scale)
    return st.integers(low, min(highs, default=max(scale, low)))


def _number(field: "Field[Any]") -> SearchStrategy[float]:
    bounds, scale = _bounds(field), float(_scale(field))
    low = max(bounds.get(operator.ge, -scale), bounds.get(operator.gt, -scale))
    high = min(bounds.get(operator.le, max(scale, low + 1)), bounds.get(operator.lt, max(scale, low + 1)))
    return st.floats(
        low,
        high,
        exclude_min=bounds.get(operator.gt) == low,
        exclude_max=bounds.get(operator.lt) == high,
        allow_subnormal=False,
    )


@st.composite
def _schedule(draw: DrawFn, field: "Field[Any]") -> Schedule:
    """Draw constant, piecewise constant and cosine schedules of multiples of the default."""
    default = _default(field)
    unit = default.lowest if isinstance(default, Piecewise | Cosine) and default.lowest else 1.0
    first, second = (unit * draw(st.sampled_from([1.0, 0.0, 0.5, 2.0, 10.0])) for _ in range(2))
    schedules: list[Schedule] = [Piecewise({0: first}), Piecewise({0: first, 1: second}), Cosine(first, second)]
    return draw(st.sampled_from(schedules))


@st.composite
def _every(draw: DrawFn, field: "Field[Any]") -> Every:  # noqa: ARG001
    steps = draw(st.integers(1, 4))
    return draw(st.sampled_from([Every(steps=steps), Every(epochs=1), Every(steps={0: steps, 1: 1}, until=0.75)]))


def _amount(field: "Field[Any]") -> SearchStrategy[Amount]:  # noqa: ARG001
    share = st.integers(1, 60).map(lambda percent: f"{percent}%")
    return (share | st.integers(1, 5)).map(Amount)


_KINDS: Mapping[Any, Callable[["Field[Any]"], SearchStrategy[Any]]] = MappingProxyType(
    {
        bool: lambda _: st.booleans(),
        int: _whole,
        float: _number,
        NoneType: lambda _: st.none(),
        Schedule: _schedule,
        Every: _every,
        Amount: _amount,
    }
)
