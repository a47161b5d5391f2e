"""The same decisions on every backend."""

from typing import Any

import numpy as np

from sparsecore.engine.arrays import Arrays
from sparsecore.errors import InputError, PluginError
from sparsecore.plugins.discovery import load
from sparsecore.testing.promises import BrokenError, Promise, expect, some
from sparsecore.testing.runs import Updated, contents, updated
from sparsecore.testing.scenes import Scene, scenes
from sparsecore.testing.stacks import Subject


def _has_others(subject: Subject) -> bool:
    return bool(usable(subject.backends))


def usable(names: tuple[str, ...]) -> dict[str, Arrays]:
    """The array verbs of those of these backends that can be imported here."""
    found = {}
    for name in names:
        try:
            found[name] = load("backend", name)().arrays
        except (PluginError, InputError, ImportError):
            continue
    return found


def _agree(subject: Subject, scene: Scene) -> None:
    oracle = updated(scene)
    for name, arrays in usable(subject.backends).items():
        other = _on(name, scene, arrays)
        expected, got = (_positions(update) for update in (oracle, other))
        more, fewer = (sorted(set(one) - set(theirs)) for one, theirs in ((got, expected), (expected, got)))
        expect(
            expected == got,
            f"after the update on {name!r} there are weights at positions {some(more)}; on the oracle at {some(fewer)}",
        )
        values = (_host(update, update.reallocation.values) for update in (oracle, other))
        expect(np.array_equal(*values), f"on {name!r} the values after the update are others than on the oracle")
        changed = _changed(oracle, other)
        expect(not changed, f"on {name!r} the strategy state {', '.join(changed)} is another than on the oracle")


def _on(name: str, scene: Scene, arrays: Arrays) -> Updated:
    try:
        return updated(scene, arrays)
    except Exception as error:  # whatever it is, on the oracle there was none
        raise BrokenError(f"on {name!r} there was {type(error).__name__}: {error}") from error


def _positions(update: Updated) -> list[int]:
    positions: list[int] = _host(update, update.state.topology.positions).tolist()
    return positions


def _host(update: Updated, array: Any) -> Any:
    return update.state.topology.arrays.to_numpy(array)


def _changed(one: Updated, other: Updated) -> list[str]:
    first, second = contents(one.state), contents(other.state)
    return sorted(name for name in first.keys() | second.keys() if not _same(first.get(name), second.get(name)))


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return bool(one == other)
    first, second = (np.frombuffer(content, dtype).reshape(shape) for dtype, shape, content in (one, other))
    # sums may be worked out in another order there
    return first.dtype == second.dtype and first.shape == second.shape and np.allclose(first, second, 1e-6, 1e-9)


AGREEMENT = (
    Promise(
        "backends", "every installed backend takes the same decisions", scenes, _agree, applies=_has_others, share=0.5
    ),
)
