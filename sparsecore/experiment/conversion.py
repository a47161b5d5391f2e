"""Strict conversion between plain TOML or JSON values and attrs classes, with errors that name the key."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from sparsecore.engine.randomness import Seed, as_seed
from sparsecore.engine.reallocation import RegrowPruned, check_regrow_pruned
from sparsecore.engine.schedules import Amount, Cosine, Piecewise, Schedule, as_amount, as_schedule
from sparsecore.engine.units import Units, as_units
from sparsecore.errors import InputError

T = TypeVar("T")

_LONGEST = 200
_LARGEST = 2**53
"""Whole numbers up to here are exact in every format and in floats."""


def structure(plain: Mapping[str, Any], cls: type[T], where: str, *, lenient: bool = False) -> T:
    """Convert plain values to an instance of an attrs class.

    Args:
        plain: values by field name, as read from TOML or JSON.
        cls: an attrs class.
        where: the name of the values, such as 'training', which precedes the keys in errors.
        lenient: whether keys that the class does not have are ignored, and numbers may be infinite or NaN.

    Raises:
        InputError: an unknown key, a missing key, a wrong type, a value out of range.
    """
    try:
        return _converter(lenient).structure(dict(plain), cls)
    except Exception as error:
        sentences = cattrs.transform_error(error, where, format_exception=_sentence)
        raise InputError("; ".join(_key_first(sentence) for sentence in sentences)) from error


def unstructure(instance: Any) -> dict[str, Any]:
    """Convert an instance of an attrs class to plain values; fields that are None are left out, as TOML has no None.

    Args:
        instance: a value whose fields are settings: numbers, texts, bools, tuples, schedules, units, amounts, or attrs
            values of such.

    Returns:
        Dicts, lists, numbers, bools and texts, by the names of the class's arguments; :func:`structure` reads them
        back.
    """
    plain: dict[str, Any] = _without_none(_converter().unstructure(instance))
    return plain


def _without_none(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _without_none(value) for key, value in plain.items() if value is not None}
    if isinstance(plain, list | tuple):
        return [_without_none(value) for value in plain]
    return plain


def _sentence(error: BaseException, _: Any) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(str(field.alias) for field in attrs.fields(error.cl) if field.init)
        return f"no key named {', '.join(map(repr, sorted(error.extra_fields)))}; known: {known or 'none'}"
    if isinstance(error, KeyError):
        return f"the key {error.args[0]!r} is missing"
    if isinstance(error, TypeError):
        return f"a value of another kind was expected ({error})"
    return str(error.args[0]) if error.args else type(error).__name__


def _key_first(sentence: str) -> str:
    """Turn 'problem @ training.epochs' into 'training.epochs: problem'."""
    problem, _, key = sentence.rpartition(" @ ")
    return f"{key}: {problem}" if problem else sentence


def _whole(given: Any, _: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise InputError(f"a whole number was expected, given {_shown(given)}")
    if abs(given) > _LARGEST:
        raise InputError(f"a whole number of at most {_LARGEST} was expected, given {_shown(given)}")
    return given


def _seed(given: Any, _: Any) -> Seed:
    return as_seed(given)


def _number(given: Any, _: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InputError(f"a number was expected, given {_shown(given)}")
    return float(given)


def _finite(given: Any, _: Any) -> float:
    number = _number(given, _)
    if not math.isfinite(number):
        raise InputError(f"a finite number was expected, given {given}")
    return number


def _truth(given: Any, _: Any) -> bool:
    if not isinstance(given, bool):
        raise InputError(f"true or false was expected, given {_shown(given)}")
    return given


def _text(given: Any, _: Any) -> str:
    if not isinstance(given, str):
        raise InputError(f"a text was expected, given {_shown(given)}")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InputError(f"a text in UTF-8 was expected, given {given!r}") from None
    return given


def _sequence(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    elements: Any = list.__class_getitem__(get_args(cls)[0])

    def structured(given: Any, _: Any) -> Any:
        if not isinstance(given, list | tuple):
            raise InputError(f"a list was expected, given {_shown(given)}")
        return tuple(converter.structure(list(given), elements))

    return structured


def _is_sequence(cls: Any) -> bool:
    """Whether it is a tuple of any length."""
    return get_origin(cls) is tuple and get_args(cls)[1:] == (Ellipsis,)


def _regrow_pruned(given: Any, _: Any) -> RegrowPruned:
    if not (isinstance(given, bool) or given == "keep"):
        raise InputError(f"true, false or 'keep' was expected, given {_shown(given)}")
    return check_regrow_pruned(given)


def _schedule(given: Any, _: Any) -> Schedule:
    return as_schedule(given)


def _amount(given: Any, _: Any) -> Amount:
    return as_amount(given)


def _units(given: Any, _: Any) -> Units:
    return as_units(_text(given, str))


def _plain_piecewise(schedule: Piecewise) -> Any:
    if len(schedule.pieces) == 1:
        return schedule.pieces[0][1]
    return {str(epoch): value for epoch, value in schedule.pieces}


def _plain_cosine(schedule: Cosine) -> Any:
    return {"start": schedule.start, "end": schedule.end, "until": schedule.until}


def _shown(given: Any) -> str:
    try:
        text = f"the table {dict(given)}" if isinstance(given, Mapping) else repr(given)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _table(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    from_table = make_dict_structure_fn(cls, converter, _cattrs_use_alias=True)

    def structured(given: Any, target: Any) -> Any:
        if not isinstance(given, Mapping):
            keys = ", ".join(str(field.alias) for field in attrs.fields(cls))
            raise InputError(f"a table of {keys} was expected, given {_shown(given)}")
        return from_table(given, target)

    return structured


def _plain_fields(cls: Any, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    # a field '_x' is called 'x' in settings
    return make_dict_unstructure_fn(cls, converter, _cattrs_use_alias=True)


def _is_literal(cls: Any) -> bool:
    return get_origin(cls) is Literal


def _one_of(given: Any, cls: Any) -> Any:
    if given not in cls.__args__:
        raise InputError(f"one of {', '.join(map(repr, cls.__args__))} was expected, given {_shown(given)}")
    return given


@cache
def _converter(lenient: bool = False) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=not lenient)
    converter.register_structure_hook_factory(attrs.has, lambda cls: _table(cls, converter))
    converter.register_unstructure_hook_factory(attrs.has, lambda cls: _plain_fields(cls, converter))
    converter.register_structure_hook_factory(_is_sequence, lambda cls: _sequence(cls, converter))
    converter.register_structure_hook(int, _whole)
    converter.register_structure_hook(Seed, _seed)
    converter.register_structure_hook(float, _number if lenient else _finite)
    converter.register_structure_hook(bool, _truth)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(Amount, _amount)
    converter.register_structure_hook_func(lambda cls: cls is Schedule, _schedule)
    converter.register_structure_hook_func(lambda cls: cls is Units, _units)
    converter.register_structure_hook_func(_is_literal, _one_of)
    converter.register_structure_hook_func(lambda cls: cls == RegrowPruned | None, _regrow_pruned)
    # a schedule is stored as what a settings file would hold; the class of the value decides, not the field's
    converter.register_unstructure_hook_func(lambda cls: cls is Schedule, converter.unstructure)
    converter.register_unstructure_hook(Piecewise, _plain_piecewise)
    converter.register_unstructure_hook(Cosine, _plain_cosine)
    converter.register_unstructure_hook(Amount, lambda amount: amount.given)
    converter.register_unstructure_hook_func(lambda cls: cls is Units, str)
    return converter
