"""A counterexample as a table: of each tensor what was there, what stayed, and what grew."""

import functools
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import attrs
import numpy as np

from sparsecore.engine.registration import MARK
from sparsecore.testing.runs import Moment, engine, judged_update, past
from sparsecore.testing.scenes import Scene
from sparsecore.testing.stacks import fresh, hooks_of

HEAD = ("tensor", "before", "kept", "grown")

_WIDTH = 24
"""Characters of a cell's entries: a table is hardly wider than a screen."""


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
    """An update in the scene, a row a tensor; what cannot be told, since the engine stopped it, is '?'.

    Where the engine stopped an update of the scene's past it is this one.
    """
    heard = _Heard()
    algorithm = engine(scene, stack={name: heard.listening(plugin) for name, plugin in fresh(scene.stack).items()})
    moment: Moment | None = None
    kept: Any = None
    grown: Any = None
    try:
        for moment, _ in past(algorithm, scene):  # noqa: B007
            heard.answers.clear()
        if moment is not None:
            reallocation = judged_update(algorithm, scene, moment).reallocation
            kept, grown = reallocation.survives, reallocation.grown_positions
    except Exception:  # the table is of what was heard until then
        kept, grown = heard.answers.get("prune"), heard.answers.get("grow")
    weights = _of_scene(scene) if moment is None else _weights(moment)
    return [_row(scene, weights, tensor, _flags(kept, weights), _listed(grown)) for tensor in range(len(scene.layout))]


Weights = Sequence[tuple[int, float]]
"""Position and value of each weight."""


def _of_scene(scene: Scene) -> Weights:
    return list(zip(scene.positions.tolist(), scene.values.tolist(), strict=True))


def _weights(moment: Moment) -> Weights:
    arrays = moment.state.topology.arrays
    positions, values = (arrays.to_numpy(of).tolist() for of in (moment.state.topology.positions, moment.values))
    return list(zip(positions, values, strict=True))


def _row(
    scene: Scene, weights: Weights, tensor: int, kept: Sequence[bool] | None, grown: Sequence[int] | None
) -> tuple[str, ...]:
    layout = scene.layout
    first, last = layout.offsets[tensor], layout.offsets[tensor + 1]
    own = [slot for slot, (position, _) in enumerate(weights) if first <= position < last]
    told = [f"{weights[slot][0] - first}:{weights[slot][1]:.6g}" for slot in own]
    stays = None if kept is None else [text for slot, text in zip(own, told, strict=True) if kept[slot]]
    # the last tensor shows what lies beyond the layout, too
    end = last if tensor + 1 < len(layout) else np.inf
    new = None if grown is None else [str(position - first) for position in grown if first <= position < end]
    shape = "×".join(map(str, layout.shapes[tensor]))
    return f"{layout.names[tensor]} {shape}", _cell(told), _cell(stays), _cell(new)


def _cell(entries: Sequence[str] | None) -> str:
    """The first entries, as far as they fit, and how many there are."""
    if entries is None:
        return "?"
    fitting = sum(end <= _WIDTH for end in accumulate(len(entry) + 1 for entry in entries))
    if fitting >= len(entries):
        return " ".join(entries) or "none"
    return f"{' '.join(entries[: max(1, fitting - 1)])} … {len(entries)} in all"


def _flags(kept: Any, weights: Weights) -> Sequence[bool] | None:
    flags = _listed(kept)
    return flags if flags is not None and len(flags) == len(weights) else None


def _listed(array: Any) -> Sequence[Any] | None:
    """The entries of a vector; None for whatever else a plugin may have answered."""
    if getattr(array, "ndim", None) != 1:
        return None
    entries: list[Any] = array.tolist()
    return entries


LONGEST = 500
"""Characters of an example that are printed: some lines."""


def in_short(example: Any) -> str:
    """The example as text, cut off where it is long."""
    told = repr(example)
    return told if len(told) <= LONGEST else f"{told[:LONGEST]} … ({len(told):,} characters)"


def text(head: Iterable[str], cells: Sequence[Sequence[str]]) -> str:
    """The table in plain text."""
    lines = [tuple(head), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
