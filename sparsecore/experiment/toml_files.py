"""Reading TOML files and values that users write."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecore.errors import InputError

_DEEPEST = 60
_LARGEST = 1 << 20
"""Bytes of a file of settings; the largest of ours has some thousand."""
_LONGEST_SHOWN = 200
_MOST_PARTS = 20
_PART = r"""(?:[^\s.=\[\]{},"'#]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"""(?<![^\s.=\[\]{{}},"'#]){_PART}(?:\.[ \t]*+{_PART}){{{_MOST_PARTS}}}""")
"""A key of more parts than any setting has, from the beginning of a part on: what tomllib takes grows with the
square of their number."""


def toml_value(text: str) -> Any:
    """Parse a text as a TOML value; text that is not one is returned unchanged.

    Args:
        text: a value as written after ``=``, such as on the command line; numbers that TOML does not
            have, such as .9 and NaN, are read too.

    Raises:
        InputError: the value is a table or a list that is nested too deeply (some 60 levels), or has a key of more than
            20 parts; or it is written as a table, and is not one.
    """
    if text.lstrip().startswith(("{", "[")):  # only tables and lists can have keys
        _check_keys(text, f"the value {text[:40]}...")
    try:
        table = tomllib.loads(f"value = {text}")
    except RecursionError:
        return text
    except ValueError as error:
        if text.lstrip().startswith("{") and "=" in text:  # without "=" it may be a text, such as {model}
            shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
            raise InputError(f"the value {shown} is not a table of TOML: {str(error).partition(' (at ')[0]}") from error
        return _number_or_text(text)
    try:
        _check_depth(table)
    except RecursionError:
        raise InputError(f"the value {text[:40]}... is nested too deeply") from None
    # a text of several lines may hold more than a value
    return table["value"] if len(table) == 1 else text


def inline_toml(value: Any) -> str:
    """Write a value on one line, as :func:`toml_value` parses it.

    Args:
        value: a text, a number, a bool, or lists and mappings of such with texts as keys; not None, which TOML lacks.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(inline_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def as_list(given: Any) -> list[Any]:
    """The value itself if it is a list, else a list of it."""
    return given if isinstance(given, list) else [given]


def _number_or_text(text: str) -> float | str:
    """Parse numbers that TOML does not have, such as .9 and NaN; else return the text."""
    try:
        return float(text) if text.isascii() and "_" not in text else text
    except ValueError:
        return text


def read_toml(file: Path) -> dict[str, Any]:
    """The tables of a TOML file, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)  # a device such as /dev/zero has no end
    except OSError as error:
        raise InputError(f"the file {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a path that cannot be one
        raise InputError(f"the file {str(file)!r} cannot be read: {error}") from error
    if len(content) > _LARGEST:
        raise InputError(f"the file {file} cannot be read: more than {_LARGEST >> 20} MiB are no settings")
    return toml_tables(content, file)


def _check_keys(text: str, source: str) -> None:
    """Raise an InputError if a key has absurdly many parts, before tomllib parses it."""
    if _LONG_KEY.search(text):
        raise InputError(f"{source} cannot be read: a key has more than {_MOST_PARTS} parts, and is nested too deeply")


def _check_depth(value: Any) -> None:
    """Raise a RecursionError if tables and lists are nested too deeply for recursive functions."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _within(outer)]
        if not level:
            return
    raise RecursionError


def _within(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in inner if isinstance(one, dict | list)]


def toml_tables(content: bytes, source: object) -> dict[str, Any]:
    """The tables of a TOML file's content.

    Args:
        content: of the file.
        source: what the sentences call it.

    Raises:
        InputError: it is no TOML.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the file {source} cannot be read: it is not UTF-8") from error
    _check_keys(text, f"the file {source}")
    try:
        tables = tomllib.loads(text)
        _check_depth(tables)
        return tables
    except RecursionError as error:
        raise InputError(f"the file {source} is not TOML that can be read: it is nested too deeply") from error
    except ValueError as error:  # TOML's own, and numbers with too many digits
        raise InputError(f"the file {source} is not TOML: {error}") from error
