"""Pages and charts of benchmarks, from the measured numbers in benchmarks/results."""

import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType

from mkdocs.plugins import get_plugin_logger
from site_repository import ROOT, first_heading

RESULTS = ROOT / "benchmarks/results"
_log = get_plugin_logger("sparsecore")


def pages() -> Iterator[tuple[str, str]]:
    """Yield the pages and charts of all benchmarks: place on the site, and Markdown or SVG.

    A benchmark's script writes both from its numbers. Where the script cannot be imported, as without a C++ compiler,
    the committed page and chart are taken, which the tests compare with the numbers.
    """
    for numbers in sorted(RESULTS.glob("*.json")):
        report = json.loads(numbers.read_text("utf-8"))
        name = numbers.stem
        chart = numbers.with_suffix(".svg")
        try:
            script = _script(name)
        except ImportError as error:
            _log.info("The committed page of benchmarks/%s.py is taken: %s", name, error)
            yield f"benchmarks/{name}.md", numbers.with_suffix(".md").read_text("utf-8")
            if chart.exists():
                yield f"benchmarks/{name}.svg", chart.read_text("utf-8")
            continue
        yield f"benchmarks/{name}.md", script.page(report)
        if hasattr(script, "chart"):
            yield f"benchmarks/{name}.svg", script.chart(report)


def _script(name: str) -> ModuleType:
    folder = str(RESULTS.parent)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def listing(generated: dict[str, str]) -> str:
    """Return a list of links to the pages of benchmarks, as Markdown.

    Args:
        generated: the pages by their place on the site.
    """
    places = sorted(place for place in generated if place.startswith("benchmarks/") and place.endswith(".md"))
    lines = [f"- [{first_heading(generated[place])}]({place.removeprefix('benchmarks/')})" for place in places]
    return "\n".join(lines)
