"""Safetensors files whose metadata have a format, facts as JSON, and a checksum over facts and arrays."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.formats import KEY, Format

ENTRY = "sparsecore"
"""The key of the metadata that has format, facts and checksum."""

HostArrays = Mapping[str, NDArray[Any]]


def sealed_content(file_format: Format, facts: str, arrays: HostArrays) -> bytes:
    """Return the content of a file.

    Args:
        file_format: of the file.
        facts: a table, as JSON.
        arrays: by name.
    """
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    entry = json.dumps({KEY: file_format.text, "facts": facts, "sha256": checksum(facts, whole)})
    # one entry: safetensors writes several in an order that changes from process to process
    return bytes(save(whole, {ENTRY: entry}))


def checksum(facts: str, arrays: HostArrays) -> str:
    """Return the SHA-256 of facts and arrays.

    Args:
        facts: as JSON.
        arrays: by name.
    """
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_entry(path: Path, source: str) -> tuple[Mapping[str, Any], dict[str, NDArray[Any]]]:
    """Read the metadata and the arrays of a file.

    Args:
        path: any file.
        source: its name in errors.

    Returns:
        What JSON has of the metadata, empty where there are none of ours, and the arrays by name.

    Raises:
        InputError: it is no safetensors file, is truncated, or its metadata are no table.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            entry = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of safetensors, JSON or NumPy
        raise InputError(f"{source} is damaged: {error}") from error
    if not isinstance(entry, dict):
        raise InputError(f"{source} is damaged: its metadata are no table")
    return entry, arrays


def unsealed_facts(entry: Mapping[str, Any], arrays: HostArrays, source: str) -> dict[str, Any]:
    """Return the facts of a file, checked.

    Args:
        entry: its metadata.
        arrays: its arrays.
        source: its name in errors.

    Raises:
        InputError: they do not match the checksum, or are no table.
    """
    facts = entry.get("facts", "")
    if not isinstance(facts, str) or entry.get("sha256") != checksum(facts, arrays):
        raise InputError(f"{source} is damaged: its content does not match its checksum")
    try:
        known = json.loads(facts)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is damaged: its facts are no JSON ({error})") from error
    if not isinstance(known, dict):
        raise InputError(f"{source} is damaged: its facts are no table")
    return known
