"""Files that an experiment names, by absolute paths: a run can be resumed from another folder."""

import os
from pathlib import Path
from typing import Any

from sparsecore.errors import InputError
from sparsecore.plugins import file_of


def with_absolute_paths(tables: dict[str, Any]) -> dict[str, Any]:
    """The tables (with the stack as ``{name: options}``) with plugins in files, data and runs by absolute paths."""
    named = {kind: {**tables[kind]} for kind in ("model", "data", "backend")}
    for table in named.values():
        if isinstance(table.get("name"), str):
            table["name"] = _plugin(table["name"])
    data = named["data"]
    if isinstance(data.get("dir"), str):
        data["dir"] = _absolute(data["dir"])
    if isinstance(data.get("file"), str):  # of a data set that has one; it starts in the folder
        data["file"] = _absolute(str(Path(data.get("dir", "")) / data["file"]))
    if isinstance(tables.get("start", {}).get("run"), str):
        named["start"] = {**tables["start"], "run": _absolute(tables["start"]["run"])}
    return {**tables, **named, "strategy": {_plugin(name): table for name, table in tables["strategy"].items()}}


def _plugin(selection: str) -> str:
    file = file_of(selection)
    return selection if file is None else f"{_absolute(str(file))}:{selection.rpartition(':')[2]}"


def _absolute(place: str) -> str:
    try:
        place.encode()
        return os.path.realpath(place) if place else place  # Path.resolve fails at links that lead in a circle
    except (OSError, ValueError) as error:
        raise InputError(f"{place!r} cannot be the path of a file: {error}") from error
