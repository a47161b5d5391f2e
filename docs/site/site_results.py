"""Tables whose numbers are read from files of results.

A table of a study follows a comment that names its numbers and the arm of each row; all cells but the first column are
computed:

    <!-- accuracies in fig1a-lenet-mnist/results.json: dpr, random -->

Another table follows a comment that names the function of a script that returns it:

    <!-- table by ../examples/nanogpt.py of figures/nanogpt.json -->

The comment is not shown on GitHub, where the committed table stands; the tests compare it with the numbers.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from site_links import file_of
from site_repository import read, script

_TABLE = re.compile(
    r"(?P<comment><!-- (?P<kind>\w+) in (?P<file>\S+): (?P<arms>[^\n]*?) -->\n)(?P<table>(?:\|[^\n]*\n)+)", re.DOTALL
)
_OF_SCRIPT = re.compile(
    r"(?P<comment><!-- (?P<function>\w+) by (?P<script>\S+) of (?P<file>\S+) -->\n)(?P<table>(?:\|[^\n]*\n)+)"
)
Cells = Mapping[float, Mapping[str, Any]]


def with_tables(text: str, origin: str) -> str:
    """Return a page whose tables have the numbers of their results.

    Args:
        text: Markdown.
        origin: the page's file, as a path from the root of the repository.

    Raises:
        ValueError: a table has not one row for each of its arms, or a result is missing.
    """

    def with_numbers(found: re.Match[str]) -> str:
        cells = json.loads(read(file_of(found["file"], origin)))["cells"]
        arms = [arm.strip() for arm in found["arms"].split(",")]
        by_arm = {arm: {cell["sparsity"]: cell for cell in cells if cell["arm"] == arm} for arm in arms}
        sparsities = sorted({sparsity for one in by_arm.values() for sparsity in one})
        rows = [_KINDS[found["kind"]](by_arm[arm], sparsities) for arm in arms]
        return found["comment"] + _filled(found["table"], [row for of_arm in rows for row in of_arm], origin)

    def by_script(found: re.Match[str]) -> str:
        try:
            function = getattr(script(file_of(found["script"], origin)), found["function"])
        except ImportError:
            return found[0]  # the committed table, where what the script needs is not installed
        return f"{found['comment']}{function(json.loads(read(file_of(found['file'], origin))))}\n"

    return _OF_SCRIPT.sub(by_script, _TABLE.sub(with_numbers, text))


def _filled(table: str, rows: Sequence[Sequence[str]], origin: str) -> str:
    """Return a table with other cells behind its first column."""
    head, rule, *lines = table.splitlines()
    if len(lines) != len(rows):
        raise ValueError(f"a table in {origin} has {len(lines)} rows for {len(rows)} rows of results")
    labels = [line.split("|")[1].strip() for line in lines]
    return (
        "\n".join([head, rule, *(f"| {' | '.join([label, *row])} |" for label, row in zip(labels, rows, strict=True))])
        + "\n"
    )


def _percent(cell: Mapping[str, Any]) -> str:
    mean = f"{100 * cell['mean']:.2f}"
    return mean if cell["std"] is None else f"{mean} ± {100 * cell['std']:.2f}"


def _accuracies(cells: Cells, sparsities: Sequence[float]) -> list[list[str]]:
    return [[_percent(cells[sparsity]) for sparsity in sparsities]]


def _trials(cells: Cells, sparsities: Sequence[float]) -> list[list[str]]:
    """Return the accuracy at the only sparsity, and that of each trial."""
    cell = cells[sparsities[0]]
    return [[_percent(cell), ", ".join(f"{100 * accuracy:.2f}" for accuracy in cell["accuracies"])]]


def _differences(cells: Cells, sparsities: Sequence[float]) -> list[list[str]]:
    """Return the differences from the authors' results, and these in standard errors."""
    authors = [cells[sparsity]["authors"] for sparsity in sparsities]
    return [[f"{one['difference']:+.2f}" for one in authors], [f"{one['standard_errors']:+.1f}" for one in authors]]


_KINDS: Mapping[str, Callable[[Cells, Sequence[float]], list[list[str]]]] = {
    "accuracies": _accuracies,
    "trials": _trials,
    "differences": _differences,
}
