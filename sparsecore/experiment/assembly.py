"""Putting an experiment together: defaults, presets, a TOML file, options of the command line, ``--set``; later wins.

A key replaces a key of the same section as a whole; only ``--set section.key.part=value`` reaches inside.
"""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsecore.errors import InputError
from sparsecore.experiment.presets import presets

Tables = dict[str, Any]

DEFAULTS: Mapping[str, Any] = {
    "model": {"name": "wrn-28-2"},
    "data": {"name": "digits"},
    "backend": {"name": "numpy"},
    "strategy": {"dpr": {}},
}
"""The demo. With a stack as ``{name: options}``, as everywhere before :func:`assemble` is done."""


def assemble(file: Path | None, options: Mapping[str, str], stack: Sequence[str], settings: Sequence[str]) -> Tables:
    """The tables of an experiment, for :meth:`sparsecore.experiment.experiment.Experiment.of`.

    Args:
        file: a TOML file, or None.
        options: settings by dotted name, as text.
        stack: names of the strategies, bottom first; empty to leave the file's or the default's.
        settings: 'section.key=value' texts.

    Raises:
        InputError: the file cannot be read, or a setting has not this form.
    """
    given = _read(file) if file else {}
    use_presets = given.pop("presets", True)
    chosen = _over(DEFAULTS, given)
    if "strategy" in given:
        chosen["strategy"] = _as_stack(given["strategy"])
    for name, value in options.items():
        _set(chosen, name, _value(value))
    if stack:
        known = chosen["strategy"]
        chosen["strategy"] = {name: known.get(name, {}) for name in _as_stack(list(stack))}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"a setting is written section.key=value; given {setting!r}")
        _set(chosen, name.strip(), _value(value.strip()))
    return _with_absolute_paths(_above_presets(chosen) if use_presets else chosen)


def _above_presets(chosen: Tables) -> Tables:
    """What was chosen, and below it what the presets say."""
    names = [chosen[section].get("name") for section in ("model", "data")]
    below: Tables = {}
    for preset in presets(str(names[0]), str(names[1]), tuple(chosen["strategy"])):
        below = _over(below, preset)
    known = below.pop("strategy", {})
    options = {name: {**known.get(name, {}), **table} for name, table in chosen["strategy"].items()}
    return {**_over(below, chosen), "strategy": options}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tables:
    """Both, section by section; ``above`` wins key by key. The parts are copies."""
    merged = copy.deepcopy(dict(below))
    for section, value in copy.deepcopy(dict(above)).items():
        tables = isinstance(value, dict) and isinstance(merged.get(section, {}), dict)
        merged[section] = {**merged.get(section, {}), **value} if tables else value
    return merged


def _as_stack(given: Any) -> Tables:
    """A stack as ``{name: options}``, from that or from a list of names and of tables with names."""
    if isinstance(given, Mapping):
        given = [{"name": name, **table} if isinstance(table, Mapping) else table for name, table in given.items()]
    tables = [{"name": table} if isinstance(table, str) else table for table in _list(given)]
    if not tables or not all(isinstance(table, Mapping) and isinstance(table.get("name"), str) for table in tables):
        raise InputError(f"strategies are written as tables [[strategy]], each with a name; given {given!r}")
    names = [table["name"] for table in tables]
    if len(set(names)) < len(names):
        raise InputError(f"a strategy is stacked twice: {', '.join(names)}")
    return {table["name"]: {key: entry for key, entry in table.items() if key != "name"} for table in tables}


def _list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _set(tables: Tables, name: str, value: Any) -> None:
    section, _, rest = name.partition(".")
    if not rest:
        if section in {"sparsity", "seed"}:
            tables[section] = value
            return
        raise InputError(f"a setting is written section.key=value; given {name!r}")
    if section == "strategy":
        strategy, rest = _strategy_of(rest, tuple(tables["strategy"]))
        _place(tables["strategy"][strategy], rest.split("."), value, name)
        return
    if not isinstance(tables.setdefault(section, {}), dict):
        raise InputError(f"{section!r} is no section; given {name!r}")
    _place(tables[section], rest.split("."), value, name)


def _strategy_of(rest: str, stack: tuple[str, ...]) -> tuple[str, str]:
    """Which strategy 'NAME.option' belongs to, and the option; a name may have dots of its own."""
    for name in sorted(stack, key=len, reverse=True):
        if rest.startswith(f"{name}."):
            return name, rest.removeprefix(f"{name}.")
    if len(stack) == 1 and "." not in rest:
        return stack[0], rest
    raise InputError(
        f"a strategy's option is written strategy.NAME.option=value; given {rest!r}, the stack is {', '.join(stack)}"
    )


def _place(table: Tables, path: list[str], value: Any, name: str) -> None:
    for part in path[:-1]:
        inner = table.get(part)
        table[part] = dict(inner) if isinstance(inner, Mapping) else {}
        table = table[part]
    if not path[-1]:
        raise InputError(f"a setting is written section.key=value; given {name!r}")
    table[path[-1]] = value


def _value(text: str) -> Any:
    """The TOML value that the text is; a text that is none stands for itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return float(text)  # forms that TOML does not have, such as .9 and NaN
    except ValueError:
        return text


def _read(file: Path) -> Tables:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"the experiment {file} cannot be read: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the experiment {file} is not TOML: {error}") from error


def _with_absolute_paths(tables: Tables) -> Tables:
    """Plugins in files by their absolute paths, so that a run can be resumed from another folder; the stack a list."""
    named = {kind: {**tables[kind]} for kind in ("model", "data", "backend")}
    for table in named.values():
        if isinstance(table.get("name"), str):
            table["name"] = _absolute(table["name"])
    stack = [{"name": _absolute(name), **options} for name, options in tables["strategy"].items()]
    return {**tables, **named, "strategy": stack}


def _absolute(selection: str) -> str:
    place, colon, name = selection.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if colon and place.endswith(".py") else selection
