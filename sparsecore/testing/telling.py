"""A counterexample as a table: of each tensor what was there, what stayed, and what grew."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np

from sparsecore._registration import MARK
from sparsecore.testing.runs import begun, engine
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import fresh, hooks_of

HEAD = ("tensor", "before", "kept", "grown")

_MOST = 12
"""Weights that a cell quotes."""


@attrs.frozen(eq=False)
class _Heard:
    """The last answer to each hook."""

    answers: dict[str, Any] = attrs.Factory(dict)

    def listening(self, plugin: Any) -> Any:
        """A plugin that answers as this one does, and is overheard."""
        hooks = {hook: staticmethod(self._overheard(hook, method)) for hook, method in hooks_of(plugin).items()}
        return type(type(plugin).__name__, (), hooks)()

    def _overheard(self, hook: str, method: Any) -> Any:
        @functools.wraps(method)
        def answer(**given: Any) -> Any:
            self.answers[hook] = method(**given)
            return self.answers[hook]

        setattr(answer, MARK, getattr(method, MARK))
        return answer


def rows(scene: Scene) -> list[tuple[str, ...]]:
    """An update in the scene, a row a tensor; what cannot be told, since the engine stopped it, is '?'."""
    heard = _Heard()
    algorithm = engine(scene, stack={name: heard.listening(plugin) for name, plugin in fresh(scene.stack).items()})
    moment = begun(algorithm, scene)
    gradient = scene.gradient(algorithm.arrays).__getitem__ if scene.gradients else None
    kept: Any = None
    grown: Any = None
    try:
        _, reallocation = algorithm.update(moment.state, moment.values, gradient)
        kept, grown = reallocation.survives, reallocation.grown_positions
    except Exception:  # the table is of what was heard until then
        kept, grown = heard.answers.get("prune"), heard.answers.get("grow")
    return [_row(scene, tensor, _flags(kept, scene), _listed(grown)) for tensor in range(len(scene.layout))]


def _row(scene: Scene, tensor: int, kept: Sequence[bool] | None, grown: Sequence[int] | None) -> tuple[str, ...]:
    layout = scene.layout
    first, last = layout.offsets[tensor], layout.offsets[tensor + 1]
    weights = list(zip(scene.positions.tolist(), scene.values.tolist(), strict=True))
    own = [slot for slot, (position, _) in enumerate(weights) if first <= position < last]
    told = [f"{weights[slot][0] - first}:{weights[slot][1]:.6g}" for slot in own]
    stays = None if kept is None else [text for slot, text in zip(own, told, strict=True) if kept[slot]]
    # the last tensor shows what lies beyond the layout, too
    end = last if tensor + 1 < len(layout) else np.inf
    new = None if grown is None else [str(position - first) for position in grown if first <= position < end]
    shape = "×".join(map(str, layout.shapes[tensor]))
    return f"{layout.names[tensor]} {shape}", _cell(told), _cell(stays), _cell(new)


def _cell(told: Sequence[str] | None) -> str:
    if told is None:
        return "?"
    more = f" … {len(told)} in all" if len(told) > _MOST else ""
    return " ".join(told[:_MOST]) + more or "none"


def _flags(kept: Any, scene: Scene) -> Sequence[bool] | None:
    flags = _listed(kept)
    return flags if flags is not None and len(flags) == len(scene.positions) else None


def _listed(array: Any) -> Sequence[Any] | None:
    """The entries of a vector; None for whatever else a plugin may have answered."""
    if getattr(array, "ndim", None) != 1:
        return None
    entries: list[Any] = array.tolist()
    return entries


def text(head: Iterable[str], cells: Sequence[Sequence[str]]) -> str:
    """The table in plain text."""
    lines = [tuple(head), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
