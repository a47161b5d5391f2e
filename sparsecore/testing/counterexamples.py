"""Shows a counterexample: a table of each tensor's weights before the update, those kept and those grown."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np

from sparsecore.testing.runs import Snapshot, make_engine, perform_update, replay
from sparsecore.testing.scenarios import Scenario
from sparsecore.testing.search import CheckResult
from sparsecore.testing.subjects import fresh_copies, with_wrapped_hooks

HEAD = ("tensor", "before", "kept", "grown")
"""The columns of the table."""

_CELL_WIDTH = 24
"""How many characters of a cell are shown, so that the table fits on a screen."""

_LONGEST_EXAMPLE = 500
"""How many characters of an example are printed."""

_Weights: TypeAlias = Sequence[tuple[int, float]]
"""Position and value of each weight."""


def describe_failure(result: CheckResult) -> str:
    """Return a broken promise with its counterexample, in plain text.

    Args:
        result: the result of a check with the status BROKEN.
    """
    failure = f"{result.promise.name}: {result.promise.sentence}\n{result.reason}"
    example = f"example: {abbreviated_example(result.example)}"
    if not isinstance(result.example, Scenario):
        return f"{failure}\n\n{example}"
    return f"{failure}\n\n{_table(HEAD, rows(result.example))}\n\n{example}"


def abbreviated_example(example: Any) -> str:
    """Return an example as text, cut off after 500 characters.

    Args:
        example: of any type; its ``repr`` is shown.

    Returns:
        One line; of what was cut off the length is named.
    """
    text = repr(example)
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]} … ({len(text):,} characters)"


def rows(scenario: Scenario) -> list[tuple[str, ...]]:
    """Run the scenario and return the table's rows, one a tensor.

    If the engine stops an earlier update, the table shows that one.

    Args:
        scenario: the counterexample.

    Returns:
        For each tensor, the cells of the columns :data:`HEAD`; '?' for what was not reached.
    """
    results: dict[str, Any] = {}

    def recorded(hook: str, method: Any, arguments: Mapping[str, Any]) -> Any:
        results[hook] = method(**arguments)
        return results[hook]

    stack = {name: with_wrapped_hooks(plugin, recorded) for name, plugin in fresh_copies(scenario.stack).items()}
    snapshot: Snapshot | None = None
    kept: Any = None
    grown: Any = None
    try:
        engine = make_engine(scenario, stack=stack)
        for snapshot, _ in replay(engine, scenario):  # noqa: B007
            results.clear()
        if snapshot is not None:
            _, reallocation = perform_update(engine, scenario, snapshot)
            kept, grown = reallocation.survives, reallocation.grown_positions
    except Exception:  # the table shows what the hooks returned until then
        kept, grown = results.get("prune"), results.get("grow")
    weights = _weights_at_the_beginning(scenario) if snapshot is None else _weights(snapshot)
    flags, listed = _flags(kept, weights), _entries(grown)
    return [_row(scenario, weights, tensor, flags, listed) for tensor in range(len(scenario.layout))]


def _weights_at_the_beginning(scenario: Scenario) -> _Weights:
    return list(zip(scenario.positions.tolist(), scenario.values.tolist(), strict=True))


def _weights(snapshot: Snapshot) -> _Weights:
    topology = snapshot.state.topology
    positions, values = (topology.arrays.to_numpy(array).tolist() for array in (topology.positions, snapshot.values))
    return list(zip(positions, values, strict=True))


def _row(
    scenario: Scenario, weights: _Weights, tensor: int, kept: Sequence[bool] | None, grown: Sequence[int] | None
) -> tuple[str, ...]:
    layout = scenario.layout
    first, last = layout.offsets[tensor], layout.offsets[tensor + 1]
    slots = [slot for slot, (position, _) in enumerate(weights) if first <= position < last]
    before = [f"{weights[slot][0] - first}:{weights[slot][1]:.6g}" for slot in slots]
    survivors = None if kept is None else [text for slot, text in zip(slots, before, strict=True) if kept[slot]]
    # the last tensor shows positions beyond the layout, too
    end = last if tensor + 1 < len(layout) else np.inf
    new = None if grown is None else [str(position - first) for position in grown if first <= position < end]
    shape = "×".join(map(str, layout.shapes[tensor]))
    return f"{layout.names[tensor]} {shape}", _cell(before), _cell(survivors), _cell(new)


def _cell(entries: Sequence[str] | None) -> str:
    """Return the first entries, as many as fit, and how many there are."""
    if entries is None:
        return "?"
    fitting = sum(end <= _CELL_WIDTH for end in accumulate(len(entry) + 1 for entry in entries))
    if fitting >= len(entries):
        return " ".join(entries) or "none"
    return f"{' '.join(entries[: max(1, fitting - 1)])} … {len(entries)} in all"


def _flags(kept: Any, weights: _Weights) -> Sequence[bool] | None:
    flags = _entries(kept)
    return flags if flags is not None and len(flags) == len(weights) else None


def _entries(array: Any) -> Sequence[Any] | None:
    """Return the entries of a vector; None for anything else that a plugin may have returned."""
    if getattr(array, "ndim", None) != 1:
        return None
    entries: list[Any] = array.tolist()
    return entries


def _table(head: Iterable[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [tuple(head), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
