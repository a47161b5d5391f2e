"""Whether two experiments are the same, whatever the places where their files lie."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

PLACES = frozenset({"data.dir", "data.file", "start.run"})
"""Settings that say where something lies; a run may be resumed with the same elsewhere."""


def experiment_fingerprint(tables: Mapping[str, Any]) -> str:
    """A SHA-256 of an experiment's tables: what :func:`identity` keeps of them under "experiment"."""
    sections = {name: tables[name] for name in ("data", "start") if name in tables}
    told = {
        name: {key: value for key, value in table.items() if f"{name}.{key}" not in PLACES}
        for name, table in sections.items()
    }
    return hashlib.sha256(json.dumps({**tables, **told}, sort_keys=True).encode()).hexdigest()


def differences(begun: Mapping[str, Any], asked: Mapping[str, Any], section: str = "") -> list[str]:
    """The settings in which two tables differ, a sentence each, but for those that say where something lies.

    Args:
        begun: the tables that something was begun with.
        asked: the tables that are asked for now.
        section: the dotted name that both belong to, with a dot at its end.
    """
    told = []
    for key in sorted(begun.keys() | asked.keys()):
        name, there, here = f"{section}{key}", begun.get(key), asked.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            told += differences(there, here, f"{name}.")
        elif there != here and name not in PLACES:
            told.append(f"{name} is {there} there, {here} is asked for")
    return told
