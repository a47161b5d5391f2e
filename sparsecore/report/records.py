"""JSON and TOML files as typed values, or a sentence with the file and the line that is wrong."""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from sparsecore.errors import InputError
from sparsecore.run.files import check_regular

Record = TypeVar("Record")

_LARGEST = 2**53
"""Whole numbers up to here are exact in floats, and can be drawn."""


def read_text(path: Path) -> str:
    """The file's text; an :class:`InputError` if it cannot be had."""
    return _decode(path, _read_bytes(path))


def read_record(path: Path, kind: type[Record]) -> Record:
    """The one JSON object that the file holds."""
    return _record(path, 1, read_text(path), kind)


def read_lines(path: Path, kind: type[Record]) -> tuple[Record, ...]:
    """The JSON objects of a file with one a line."""
    content = _read_bytes(path)
    # what follows the last newline was being written when the run was killed, and may end within a letter
    lines = _decode(path, content[: content.rfind(b"\n") + 1]).split("\n")[:-1]
    return tuple(_record(path, number, line, kind) for number, line in enumerate(lines, 1))


def _read_bytes(path: Path) -> bytes:
    check_regular(path, str(path))  # a pipe would be waited for
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: expected UTF-8 text") from error


def _record(path: Path, line: int, text: str, kind: type[Record]) -> Record:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise InputError(f"{path}, line {where}: not valid JSON, {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise InputError(f"{path}, line {line}: not valid JSON, nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{path}, line {line}: not valid JSON, {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}, line {line}: expected a JSON object, found {text[:40].strip()!r}")
    try:
        return _converter().structure(fields, kind)
    except cattrs.BaseValidationError as error:
        problems = cattrs.transform_error(error, path="the record", format_exception=_problem)
        raise InputError(f"{path}, line {line}: {'; '.join(problems)}") from error


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    # cattrs would call int() and str(), which turn 1.5 into 1 and [] into "[]"
    converter.register_structure_hook(int, lambda value, _: _exactly(value, "an integer", int))
    converter.register_structure_hook(float, lambda value, _: float(_exactly(value, "a number", int, float)))
    converter.register_structure_hook(str, lambda value, _: _exactly(value, "a string", str))
    return converter


def _exactly(value: Any, expected: str, *kinds: type) -> Any:
    if type(value) not in kinds:  # isinstance would take true for 1
        raise ValueError(f"expected {expected}, found {json.dumps(value)[:40]}")
    if type(value) is int and abs(value) > _LARGEST:
        raise ValueError(f"expected a number of at most {_LARGEST}, found one of {len(str(value))} digits")
    return value


def _problem(error: BaseException, _: type | None) -> str:
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
