"""The figures and numbers of the README are those that were measured."""

import importlib
import json
import re
from importlib.metadata import version

import pytest
from pages import ROOT, read

FIGURES = ROOT / "docs/figures"


@pytest.fixture(scope="module")
def drawing():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("readme_figures")


def test_the_figures_are_drawn_from_the_committed_numbers(drawing):
    pinned = re.search(r"^matplotlib==(.*)$", read("constraints.txt"), re.MULTILINE)
    if pinned is None or version("matplotlib") != pinned[1]:
        pytest.skip("another matplotlib draws other paths")
    densities = json.loads(read("docs/figures/densities.json"))
    times = json.loads(read("benchmarks/results/cpu_step.json"))
    assert (FIGURES / "densities.svg").read_text("utf-8") == drawing.densities_figure(densities)
    assert (FIGURES / "step-times.svg").read_text("utf-8") == drawing.times_figure(times)


def test_the_times_of_a_step_are_those_that_were_measured():
    times = json.loads(read("benchmarks/results/cpu_step.json"))["threads"]["1"]["step_ms"]
    sparse = " / ".join(f"{times[f'uniform {sparsity}']:.0f}" for sparsity in (0.9, 0.95, 0.98))
    assert f"| {sparse} ms | {times['float32, channels last']:.0f} ms, dense PyTorch" in read("README.md")
