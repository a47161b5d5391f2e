"""Results as files: JSON for programs, Markdown for people."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(name: str, report: dict[str, Any], page: str, *, chart: str = "", is_shown: bool = True) -> None:
    """Write all to the folder ``results``, the chart as SVG, and print the page unless ``is_shown`` is False."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (RESULTS / f"{name}.md").write_text(page, "utf-8")
    if chart:
        (RESULTS / f"{name}.svg").write_text(chart, "utf-8")
    if is_shown:
        print(page, end="")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
