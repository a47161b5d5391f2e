"""Changes of files with a checksum, by what docs/formats.md says: the checksum is made right again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

Arrays = dict[str, Any]
Facts = dict[str, Any]


def entry_of(path: Path) -> dict[str, Any]:
    """The metadata that a file has of sparsecore."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    entry: dict[str, Any] = json.loads(header["__metadata__"]["sparsecore"])
    return entry


def facts_of(path: Path) -> Facts:
    """The facts of a file."""
    facts: Facts = json.loads(entry_of(path)["facts"])
    return facts


def checksum_of(facts: str, arrays: Arrays) -> str:
    """The checksum that the page describes."""
    digest = hashlib.sha256(facts.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def unchanged(arrays: Arrays, facts: Facts) -> tuple[Arrays, Facts]:
    """The same arrays and facts."""
    return arrays, facts


def rewrite(path: Path, change: Callable[[Arrays, Facts], tuple[Arrays, Facts]] = unchanged, **entry: Any) -> None:
    """Write a file again with other arrays and facts, and with other entries of the metadata where given."""
    arrays, facts = change(load_file(path), facts_of(path))
    text = json.dumps(facts)
    made = {**entry_of(path), "facts": text, "sha256": checksum_of(text, arrays), **entry}
    save_file(arrays, path, {"sparsecore": json.dumps(made)})
