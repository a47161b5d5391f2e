"""Pieces of a page: settings in a line, lists of definitions, figures with their captions."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from sparsecore.report.figures import Figure


def name_of(value: Any) -> str:
    """What a table, or each of an array of tables, calls itself."""
    tables = value if isinstance(value, list) else [value]
    names = [str(table["name"]) for table in tables if isinstance(table, Mapping) and "name" in table]
    return " + ".join(name.rpartition(":")[2] for name in names)  # of file.py:Object, the object


def brief(value: Any) -> str:
    """A table is its name and then its other keys; what lies deeper is written as JSON."""
    if not isinstance(value, Mapping):
        return _written(value)
    rest = (f"{key} {_written(entry)}" for key, entry in value.items() if key != "name")
    return ", ".join([*filter(None, [name_of(value)]), *rest])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def definitions(kind: str, rows: Iterable[tuple[str, str]]) -> str:
    """A list of terms with their descriptions; ``kind`` is its class in the style sheet."""
    items = (f"<div><dt>{escape(term)}</dt><dd>{escape(description)}</dd></div>\n" for term, description in rows)
    return f'<dl class="{kind}">\n{"".join(items)}</dl>'


def figure_element(figure: Figure) -> str:
    """A figure with its title above and its caption below."""
    # the drawing's letters are outlines, so that the caption and the label speak for it
    drawing = figure.svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.title)}"', 1)
    caption = escape(figure.caption.strip())
    return f"<figure>\n<h2>{escape(figure.title)}</h2>\n{drawing}\n<figcaption>{caption}</figcaption>\n</figure>\n"
