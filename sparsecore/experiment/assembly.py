"""Assembling an experiment from defaults, presets, a TOML file, options of the command line and ``--set``; later wins.

A key replaces a key of the same section as a whole; only ``--set section.key.part=value`` changes a part of it.
"""

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.experiment import DEFAULT_OPTIMIZER, SECTIONS, Experiment
from sparsecore.experiment.presets import default_stack, presets
from sparsecore.experiment.start_settings import SUFFIX, gives_active
from sparsecore.experiment.toml_files import as_list, read_toml, toml_value
from sparsecore.formats import RUN
from sparsecore.plugins.discovery import file_of, installed, load


def with_absolute_paths(tables: dict[str, Any]) -> dict[str, Any]:
    """Make the paths of plugins, data and runs absolute, so that they mean the same in another working directory.

    Args:
        tables: an experiment, with ``model``, ``data`` and ``backend``, and the stack as ``{name: options}``.

    Returns:
        New tables; those that have no paths are shared with the given ones.

    Raises:
        InputError: a text cannot be the path of a file.
    """
    named = {kind: {**tables[kind]} for kind in ("model", "data", "backend")}
    for table in named.values():
        if isinstance(table.get("name"), str):
            table["name"] = _plugin(table["name"])
    data = named["data"]
    if isinstance(data.get("dir"), str):
        data["dir"] = _absolute(data["dir"])
    if isinstance(data.get("root"), str):
        data["root"] = _absolute(data["root"])
    for key in ("train_transforms", "test_transforms"):
        if key in data:
            data[key] = _transforms(data[key])
    if isinstance(data.get("file"), str):  # relative to the folder of the data set
        data["file"] = _absolute(str(Path(data.get("dir", "")) / data["file"]))
    start = tables.get("start", {})
    paths = {key: _absolute(start[key]) for key in ("run", "weights") if isinstance(start.get(key), str)}
    if _is_file(start.get("active")):
        paths["active"] = _absolute(start["active"])
    if paths:
        named["start"] = {**start, **paths}
    return {**tables, **named, "strategy": {_plugin(name): table for name, table in tables["strategy"].items()}}


def _transforms(given: Any) -> Any:
    """Transforms with absolute paths of files, where there are such: a text, or a list of texts and of named tables."""
    if isinstance(given, str):
        return _plugin(given)
    if isinstance(given, list):
        return [_transforms(one) for one in given]
    named = isinstance(given, Mapping) and isinstance(given.get("name"), str)
    return {**given, "name": _plugin(given["name"])} if named else given


def _is_file(active: Any) -> bool:
    """Whether the setting ``start.active`` is a file, and not one of the words."""
    return isinstance(active, str) and active.endswith(SUFFIX)


def _plugin(selection: str) -> str:
    file = file_of(selection)
    return selection if file is None else f"{_absolute(str(file))}:{selection.rpartition(':')[2]}"


def _absolute(path: str) -> str:
    try:
        path.encode()
        return os.path.realpath(path) if path else path  # Path.resolve fails at links that lead in a circle
    except (OSError, ValueError) as error:
        raise InputError(f"{path!r} cannot be the path of a file: {error}") from error


PATH_SETTINGS = frozenset({"data.dir", "data.file", "start.run", "start.weights"})
"""Settings that are paths."""


NEUTRAL_SETTINGS = PATH_SETTINGS | {"data.root", "data.workers", "data.download"}
"""Settings that change no result: a run may be resumed with other ones."""


def _without_path(setting: str, value: Any) -> Any:
    """The value of a setting, or the same text for every file where it may also be one."""
    return SUFFIX if setting == "start.active" and _is_file(value) else value


def experiment_fingerprint(tables: Mapping[str, Any]) -> str:
    """Return a digest of an experiment, which the identity of a run has under "experiment".

    Args:
        tables: of :meth:`sparsecore.experiment.experiment.Experiment.tables`.

    Returns:
        The SHA-256 of all settings except :data:`NEUTRAL_SETTINGS`, 64 hexadecimal digits.
    """
    sections = {name: tables[name] for name in ("data", "start") if name in tables}
    without_paths = {
        name: {
            key: _without_path(f"{name}.{key}", value)
            for key, value in table.items()
            if f"{name}.{key}" not in NEUTRAL_SETTINGS
        }
        for name, table in sections.items()
    }
    return hashlib.sha256(json.dumps({**tables, **without_paths}, sort_keys=True).encode()).hexdigest()


def differences(begun: Mapping[str, Any], asked: Mapping[str, Any], section: str = "") -> list[str]:
    """The differences between two experiments, except in what changes no result.

    Args:
        begun: the tables that a run was begun with.
        asked: the tables that are given now.
        section: the dotted name of the section that both belong to, with a dot at its end.

    Returns:
        A sentence for each setting.
    """
    sentences = []
    for key in sorted(begun.keys() | asked.keys()):
        name, there, here = f"{section}{key}", begun.get(key), asked.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            sentences += differences(there, here, f"{name}.")
        elif _without_path(name, there) != _without_path(name, here) and name not in NEUTRAL_SETTINGS:
            sentences.append(f"{name} was {there}, {here} is requested")
    return sentences


Tables = dict[str, Any]

DEFAULTS: Mapping[str, Any] = {
    "model": {"name": "wrn-28-2"},
    "data": {"name": "digits"},
    "backend": {},
    "strategy": {"dpr": {}},
}
"""The demo without its backend. The stack is ``{name: options}``, as everywhere until :func:`assemble` returns."""

_MOST_PARTS = 20
"""The most parts of a setting's dotted name."""

_BACKENDS = ("cpu", "numpy")
"""Default backends, the fastest first (benchmarks/cpu_digits.py); one that is not installed is skipped."""


def assemble(file: Path | None, options: Mapping[str, str], stack: Sequence[str], settings: Sequence[str]) -> Tables:
    """Assemble the tables of an experiment, for :meth:`sparsecore.experiment.experiment.Experiment.of`.

    Args:
        file: a TOML file, or None.
        options: settings by dotted name, as text.
        stack: names of the strategies, bottom first; empty to use those of the file or the default.
        settings: texts of the form 'section.key=value'.

    Raises:
        InputError: the file cannot be read, or a setting has not this form.
    """
    given = _with_tables(RUN.take(read_toml(file), f"the file {file}")) if file else {}
    use_presets = given.pop("presets", True)
    if not isinstance(use_presets, bool):
        raise InputError(f"presets is true or false; given {use_presets!r}")
    chosen = _over(DEFAULTS, given)
    if "strategy" in given:
        chosen["strategy"] = _as_stack(given["strategy"])
    for name, value in options.items():
        _set(chosen, name, toml_value(value))
    if not stack and "strategy" not in given and use_presets:
        stack = default_stack(*(str(chosen[section].get("name")) for section in ("model", "data"))) or ()
    if stack:
        known = chosen["strategy"]
        chosen["strategy"] = {name: known.get(name, {}) for name in _as_stack(list(stack))}
    pairs = [_pair(setting) for setting in settings]
    for name, value in pairs:
        if not _reaches_inside(name, chosen):
            _set(chosen, name, value)
    if "name" not in chosen["backend"]:
        chosen["backend"]["name"] = default_backend(chosen["backend"].keys())
    filled = _above_presets(chosen) if use_presets else chosen
    inside = [(name, value) for name, value in pairs if _reaches_inside(name, chosen)]
    if inside:
        # a part of a table is set in the table that presets and defaults have made by then
        complete = Experiment.of(_with_list(filled)).tables()
        filled = {**complete, "strategy": _as_stack(complete["strategy"])}
        for name, value in inside:
            _set(filled, name, value)
    return _with_list(with_absolute_paths(filled))


def default_backend(settings: Set[str]) -> str:
    """Return the name of the default backend: the fastest of the installed ones that have these settings.

    Args:
        settings: the keys that the experiment gives in its table ``backend``.

    Returns:
        'cpu' or 'numpy'; 'numpy' also where neither has the settings, and its error then says which there are.

    Raises:
        PluginError: a backend is installed but cannot be imported.
    """
    there = {entry.name for entry in installed("backend")}
    able = (name for name in _BACKENDS if name in there and settings <= attrs.fields_dict(load("backend", name)).keys())
    return next(able, _BACKENDS[-1])


def _above_presets(chosen: Tables) -> Tables:
    """The chosen settings over those of the presets."""
    names = [chosen[section].get("name") for section in ("model", "data")]
    optimizer = str(chosen.get("training", {}).get("optimizer", DEFAULT_OPTIMIZER))
    below: Tables = {}
    for preset in presets(str(names[0]), str(names[1]), tuple(chosen["strategy"]), optimizer):
        below = _over(below, preset)
    if gives_active(chosen.get("start", {})):
        below.pop("sparsity", None)  # the start brings its own
    known = below.pop("strategy", {})
    options = {name: {**known.get(name, {}), **table} for name, table in chosen["strategy"].items()}
    return {**_over(below, chosen), "strategy": options}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tables:
    """Merge two experiments section by section; a key of ``above`` wins. The values are copied."""
    merged = copy.deepcopy(dict(below))
    for section, value in copy.deepcopy(dict(above)).items():
        tables = isinstance(value, dict) and isinstance(merged.get(section, {}), dict)
        merged[section] = {**merged.get(section, {}), **value} if tables else value
    return merged


def _as_stack(given: Any) -> Tables:
    """Convert a stack to ``{name: options}``, from that or from a list of names and of tables with names."""
    if isinstance(given, Mapping):
        given = [{"name": name, **table} if isinstance(table, Mapping) else table for name, table in given.items()]
    tables = [{"name": table} if isinstance(table, str) else table for table in as_list(given)]
    if not tables or not all(isinstance(table, Mapping) and isinstance(table.get("name"), str) for table in tables):
        raise InputError(f"strategies are written as tables [[strategy]], each with a name; given {given!r}")
    names = [table["name"] for table in tables]
    if len(set(names)) < len(names):
        raise InputError(f"a strategy is stacked twice: {', '.join(names)}")
    return {table["name"]: {key: entry for key, entry in table.items() if key != "name"} for table in tables}


def _with_tables(given: Tables) -> Tables:
    """Convert plugins that are given by name to tables; raise an :class:`InputError` for a section that is no table."""
    tables = dict(given)
    for section in SECTIONS:
        if section in {"model", "data", "backend"} and isinstance(given.get(section), str):
            tables[section] = {"name": given[section]}
        elif section != "strategy" and not isinstance(given.get(section, {}), dict):
            raise InputError(f"{section} is a table of settings; given {given[section]!r}")
    return tables


def _pair(setting: str) -> tuple[str, Any]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"a setting is written section.key=value; given {setting!r}")
    return name.strip(), toml_value(value.strip())


def _path(name: str, stack: tuple[str, ...]) -> list[str]:
    """The section and keys of a dotted name; for a strategy: 'strategy', its name and keys."""
    section, _, rest = name.partition(".")
    if section == "strategy" and rest:
        strategy, option = _strategy_of(rest, stack)
        return [section, strategy, *option.split(".")]
    return name.split(".")


def _reaches_inside(name: str, tables: Tables) -> bool:
    path = _path(name, tuple(tables["strategy"]))
    return len(path) > (3 if path[0] == "strategy" else 2)


def _set(tables: Tables, name: str, value: Any) -> None:
    path = _path(name, tuple(tables["strategy"]))
    if len(path) == 1 and path[0] in {"sparsity", "seed"}:
        tables[name] = value
        return
    if len(path) > _MOST_PARTS:
        raise InputError(f"a setting has at most {_MOST_PARTS} parts; given one of {len(path)}: {name[:40]}...")
    if len(path) == 1 or not all(path) or not isinstance(tables.get(path[0], {}), dict):
        raise InputError(f"a setting is written section.key=value, sparsity=value or seed=value; given {name!r}")
    table = tables
    for part in path[:-1]:
        inner = table.get(part)
        table[part] = dict(inner) if isinstance(inner, Mapping) else {}
        table = table[part]
    table[path[-1]] = value


def _strategy_of(rest: str, stack: tuple[str, ...]) -> tuple[str, str]:
    """The strategy and the option that 'NAME.option' means; a name may have dots of its own."""
    for name in sorted(stack, key=len, reverse=True):
        for written in (name, name.rpartition(":")[2]):
            if rest.startswith(f"{written}."):
                return name, rest.removeprefix(f"{written}.")
    if len(stack) == 1:
        return stack[0], rest
    raise InputError(
        f"an option of one of several strategies is written strategy.NAME.option=value, where NAME is "
        f"{' or '.join(name.rpartition(':')[2] for name in stack)}; given strategy.{rest}"
    )


def _with_list(tables: Tables) -> Tables:
    """The tables with the stack as a list, as experiments are made from."""
    return {**tables, "strategy": [{"name": name, **options} for name, options in tables["strategy"].items()]}
