"""The committed pages and charts of benchmarks are those that the scripts write for the committed numbers."""

import importlib
import json
import re
from importlib.metadata import version

import pytest
from pages import ROOT, read

pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

RESULTS = ROOT / "benchmarks/results"
MEASURED = sorted(path.stem for path in RESULTS.glob("*.json"))
PINNED = re.search(r"^matplotlib==(.*)$", read("constraints.txt"), re.MULTILINE)


@pytest.fixture
def script(monkeypatch, request):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module(request.param)


@pytest.mark.parametrize("script", MEASURED, indirect=True)
def test_a_page_says_what_was_measured(script):
    report = json.loads((RESULTS / f"{script.__name__}.json").read_text("utf-8"))
    assert (RESULTS / f"{script.__name__}.md").read_text("utf-8") == script.page(report)
    chart = RESULTS / f"{script.__name__}.svg"
    assert chart.exists() == hasattr(script, "chart")
    if chart.exists() and PINNED is not None and version("matplotlib") == PINNED[1]:  # another one draws other paths
        assert chart.read_text("utf-8") == script.chart(report)


def test_every_page_and_every_chart_has_its_numbers():
    assert {path.stem for path in RESULTS.iterdir()} == set(MEASURED)
