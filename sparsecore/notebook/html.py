"""HTML for the output cells of notebooks: it takes the colours of its surroundings, light or dark.

All styles are attributes of elements, since front ends remove style sheets, or apply them to other cells as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import attrs

from sparsecore.errors import printable
from sparsecore.observers.history import History

_BAR = "#4c8fc9"
"""A blue that is as far from white as from black."""
_RULE = "1px solid rgba(128, 128, 128, 0.4)"
_BARS = 120
"""The most bars of a chart; more updates than that are summed up."""


def as_html(value: object) -> str:
    """Return a text as HTML, with control characters written out.

    Args:
        value: what is shown; its ``str`` is the text.
    """
    return escape(printable(str(value)))


@attrs.frozen
class TensorCounts:
    """The numbers of a sparse tensor, for a row of a table.

    Attributes:
        name: its name.
        shape: its dense shape.
        size: its positions.
        start: its active weights at the start.
        now: its active weights now.
    """

    name: str
    shape: Sequence[int]
    size: int
    start: int
    now: int


@attrs.frozen
class UpdateTotals:
    """The numbers of one update, or of several consecutive ones.

    Attributes:
        step: the optimizer step of the last of them.
        pruned: weights pruned in all tensors.
        grown: weights grown in all tensors.
    """

    step: int
    pruned: int
    grown: int


def block(title: str, *parts: str) -> str:
    """Return a whole representation.

    Args:
        title: its heading, as text.
        *parts: HTML; empty parts are left out.
    """
    content = "\n".join(filter(None, parts))
    return f'<div style="overflow-x: auto"><p><strong>{as_html(title)}</strong></p>\n{content}</div>'


def note(text: str) -> str:
    """Return a paragraph of text."""
    return f'<p style="margin: 0.4em 0">{as_html(text)}</p>'


def details(title: str, groups: Mapping[str, Iterable[str]]) -> str:
    """Return a list that is unfolded by a click; nothing where there is nothing to list.

    Args:
        title: what is listed, as text.
        groups: names by what they have in common, as text.
    """
    if not groups:
        return ""
    items = "".join(f"<li>{as_html(group)}: {as_html(', '.join(names))}</li>" for group, names in groups.items())
    return f"<details><summary>{as_html(title)}</summary><ul>{items}</ul></details>"


def value_table(rows: Mapping[str, str]) -> str:
    """Return a table of names and values.

    Args:
        rows: values by name, as text.
    """
    return table((), [(as_html(name), as_html(value)) for name, value in rows.items()])


def tensor_table(tensors: Sequence[TensorCounts]) -> str:
    """Return a table of sparse tensors and their densities, with a bar for each density.

    Args:
        tensors: in network order; a last row has all of them together.
    """
    size, start, now = (sum(getattr(one, name) for one in tensors) for name in ("size", "start", "now"))
    rows = [_tensor_row(one) for one in (*tensors, TensorCounts("all", (), size, start, now))] if tensors else []
    return table(("tensor", "shape", "weights", "density at start", "density now", ""), rows)


def _tensor_row(one: TensorCounts) -> tuple[str, ...]:
    shape = "×".join(map(str, one.shape))
    densities = (f"{one.start / one.size:.4f}", f"{one.now / one.size:.4f}")
    return as_html(one.name), shape, f"{one.now:,}", *densities, bar(one.now / one.size)


def bar(share: float) -> str:
    """Return a horizontal bar.

    Args:
        share: its length, in [0, 1] of the whole width.
    """
    outer = f"width: 8em; height: 0.7em; border: {_RULE}; display: inline-block"
    inner = f"width: {100 * share:.1f}%; height: 100%; background: {_BAR}"
    return f'<div style="{outer}" title="{share:.2%}"><div style="{inner}"></div></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is aligned at the left and the others at the right.

    Args:
        head: titles of the columns, as text; empty for a table without them.
        rows: cells as HTML.
    """
    lines = [_row("th", [as_html(title) for title in head])] if head else []
    lines += [_row("td", row) for row in rows]
    return '<table style="border-collapse: collapse; color: inherit">\n' + "\n".join(lines) + "\n</table>"


def _row(element: str, cells: Sequence[str]) -> str:
    style = f"padding: 0.15em 0.7em; border-bottom: {_RULE}; color: inherit; background: none; text-align: "
    sides = ["left", *["right"] * (len(cells) - 1)]
    joined = "".join(
        f'<{element} style="{style}{side}">{cell}</{element}>' for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{joined}</tr>"


def history_chart(history: History) -> str:
    """Return a small chart of a training's updates, and the numbers of the last one; nothing before the first one.

    Args:
        history: the updates so far.
    """
    if not history.entries:
        return ""
    totals = [UpdateTotals(one.step, int(one.pruned.sum()), int(one.grown.sum())) for one in history.entries]
    numbers = ", ".join(f"{name} {number:,.6g}" for name, number in history.latest.items())
    return update_chart(totals) + note(f"last update: {numbers}")


def update_chart(updates: Sequence[UpdateTotals]) -> str:
    """Return a small chart of the weights that moved at each update; nothing where there was none.

    Args:
        updates: in order.
    """
    if not updates:
        return ""
    shown = _thinned(updates)
    most = max(max(one.pruned, one.grown) for one in shown) or 1
    width, half = 4, 24
    bars = []
    for index, one in enumerate(shown):
        up, down = half * one.grown / most, half * one.pruned / most
        sizes = f'x="{index * width}" width="{width - 1}"'
        tip = f"<title>step {one.step:,}: {one.pruned:,} pruned, {one.grown:,} grown</title>"
        bars.append(
            f'<g>{tip}<rect {sizes} y="{half - up:.2f}" height="{up:.2f}" fill="{_BAR}"/>'
            f'<rect {sizes} y="{half}" height="{down:.2f}" fill="currentColor" fill-opacity="0.45"/></g>'
        )
    size = f'width="{len(shown) * width}" height="{2 * half}"'
    label = f"weights grown (above) and pruned (below), steps {updates[0].step:,} to {updates[-1].step:,}"
    return f'<svg {size} role="img" aria-label="{label}">{"".join(bars)}</svg>\n{note(label)}'


def _thinned(updates: Sequence[UpdateTotals]) -> list[UpdateTotals]:
    stride = -(-len(updates) // _BARS)
    groups = [updates[first : first + stride] for first in range(0, len(updates), stride)]
    return [
        UpdateTotals(group[-1].step, sum(one.pruned for one in group), sum(one.grown for one in group))
        for group in groups
    ]
