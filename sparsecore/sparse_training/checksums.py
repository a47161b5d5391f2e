"""Checksums in the state dict of a sparse training: files of ``torch.save`` have none that ``torch.load`` checks."""

import hashlib
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import describe
from sparsecore.errors import listed
from sparsecore.sparse_training.state_dict import damaged

CHECKSUMS = "checksums"
"""The key of the state dict that has them."""

NAMES = "names of entries"
"""The key of the checksums that has that of the entries' names, which a file has once each."""

_SHOWN = 8


def checksums(saved: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each entry of a state dict, by its key, and that of the keys.

    Args:
        saved: arrays of the backend, numbers, strings, lists and dicts.
    """
    return {**{key: _sum_of(content) for key, content in saved.items()}, NAMES: _sum_of(sorted(saved))}


def check_sums(saved: Mapping[str, Any]) -> None:
    """Check the entries of a state dict against its checksums.

    Entries that have none are not checked: those that a user has added, and all of a state dict that is older than
    checksums.

    Args:
        saved: the state dict.

    Raises:
        InputError: an entry is not what was saved, or is missing; the message names it.
    """
    found = saved.get(CHECKSUMS, {})
    if not isinstance(found, Mapping):
        raise damaged(f"its {CHECKSUMS} are {describe(found)}")
    known = {key: expected for key, expected in found.items() if key != NAMES}
    # a file of torch.save has a name once, for the entry and its checksum, so that both are damaged alike
    if NAMES in found and found[NAMES] != _sum_of(sorted(map(str, known))):
        names = listed(sorted(map(str, known)), len(known))
        raise damaged(f"the names of its entries are not those that were saved: {names}")
    missing = [str(key) for key in known if key not in saved]
    if missing:
        raise damaged(f"it has no {listed(missing, _SHOWN)}")
    others = [str(key) for key, expected in known.items() if _sum_of(saved[key]) != expected]
    if others:
        raise damaged(
            f"{listed(others, _SHOWN)} is not what was saved, by its checksum "
            f"(without the key {CHECKSUMS!r} nothing is compared)"
        )


def _sum_of(content: Any) -> str:
    digest = hashlib.sha256()
    add_content(content, digest.update)
    return digest.hexdigest()


@singledispatch
def add_content(content: Any, update: Callable[[Any], object]) -> None:
    """Add an entry of a state dict, or a part of one, to a checksum; backends register their arrays.

    Args:
        content: of the entry.
        update: the checksum's method that takes more bytes.
    """
    update(f"{type(content).__name__} {content!r};".encode())


@add_content.register(dict)
def _(content: Mapping[str, Any], update: Callable[[Any], object]) -> None:
    update(f"dict of {len(content)}:".encode())
    for key in sorted(content, key=repr):
        add_content(key, update)
        add_content(content[key], update)


@add_content.register(list)
@add_content.register(tuple)
def _(content: list[Any] | tuple[Any, ...], update: Callable[[Any], object]) -> None:
    update(f"list of {len(content)}:".encode())
    for one in content:
        add_content(one, update)


@add_content.register(np.ndarray)
def _(content: NDArray[Any], update: Callable[[Any], object]) -> None:
    update(f"array {content.dtype} {content.shape}:".encode())
    update(content.tobytes())
