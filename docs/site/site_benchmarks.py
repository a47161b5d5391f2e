"""Pages and charts of benchmarks, from the measured numbers in benchmarks/results."""

import json
from collections.abc import Iterator

from mkdocs.plugins import get_plugin_logger
from site_repository import ROOT, first_heading, read, script

RESULTS = ROOT / "benchmarks/results"
_log = get_plugin_logger("sparsecore")


def pages() -> Iterator[tuple[str, str]]:
    """Yield the pages and charts of all benchmarks, their list, and the figures of other pages.

    The first of each pair is the place on the site, the second Markdown or SVG.

    A benchmark's script writes both from its numbers. Where the script cannot be imported, as without a C++ compiler,
    the committed page and chart are taken, which the tests compare with the numbers.
    """
    titles = {path.stem: first_heading(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.md"))}
    listed = "\n".join(f"- [{title}](results/{name}.md)" for name, title in titles.items())
    yield "benchmarks/index.md", f"{read('benchmarks/README.md').rstrip()}\n\n## Results\n\n{listed}\n"
    yield from _figures()
    for numbers in sorted(RESULTS.glob("*.json")):
        report = json.loads(numbers.read_text("utf-8"))
        name = numbers.stem
        chart = numbers.with_suffix(".svg")
        try:
            program = script(f"benchmarks/{name}.py")
        except ImportError as error:
            _log.info("The committed page of benchmarks/%s.py is taken: %s", name, error)
            yield f"benchmarks/{name}.md", numbers.with_suffix(".md").read_text("utf-8")
            if chart.exists():
                yield f"benchmarks/{name}.svg", chart.read_text("utf-8")
            continue
        yield f"benchmarks/{name}.md", program.page(report)
        if hasattr(program, "chart"):
            yield f"benchmarks/{name}.svg", program.chart(report)


def _figures() -> Iterator[tuple[str, str]]:
    """Yield the figures that the README and other pages have of benchmarks and of a run."""
    program = script("benchmarks/readme_figures.py")
    yield "figures/densities.svg", program.densities_figure(json.loads(read("docs/figures/densities.json")))
    yield "figures/step-times.svg", program.times_figure(json.loads(program.TIMES.read_text("utf-8")))
    yield "figures/model-times.svg", program.models_figure(json.loads(program.MODELS.read_text("utf-8")))
