"""The examples of docs/sparsify.md run as printed."""

import re
from importlib.util import find_spec

import pytest
from pages import code, read

torch = pytest.importorskip("torch")

NUMBERS = re.compile(r"[\d.,]+")
NEEDED = {'kernels="sparse"': "sparsecore_cpu", "to_onnx(": "onnxruntime"}


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space = {}
    first, *others = [
        block
        for block in code("docs/sparsify.md")
        if all(find_spec(package) for text, package in NEEDED.items() if text in block)
    ]
    exec(first, space)
    shown = re.search(r"^prints\n\n(.*?)^\(the numbers", read("docs/sparsify.md"), re.DOTALL | re.MULTILINE)
    printed = [NUMBERS.sub("#", line).split() for line in capsys.readouterr().out.splitlines()]
    assert printed == [NUMBERS.sub("#", line).split() for line in shown[1].strip("\n").splitlines()]
    for block in others:
        exec(block, space)
        if "routes" in block:
            assert "`sparse kernels: 2.weight`" in read("docs/sparsify.md")
            assert capsys.readouterr().out.splitlines() == ["sparse kernels: 2.weight"]
    assert (tmp_path / "at.pt").exists()
    assert (space["averaged"].module[2].weight != 0).sum() <= space["averaged"].module[2].weight.numel() // 5


@pytest.mark.parametrize(
    "page",
    [
        "docs/coming-from.md",
        "docs/compact-storage.md",
        "docs/explanations/kernels.md",
        "docs/explanations/positions.md",
        "docs/faq.md",
        "docs/sparsify-groups.md",
        "docs/young-weights.md",
    ],
)
def test_the_page_runs_by_itself(page):
    torch.manual_seed(0)
    space = {}
    for block in code(page):
        exec(block, space)


def test_the_page_about_training_on_a_cpu_shows_the_time_of_a_step_and_a_region(capsys):
    pytest.importorskip("sparsecore_cpu._kernels")
    torch.manual_seed(0)
    space = {}
    for block in code("docs/train-faster-on-cpu.md"):
        exec(block, space)
    printed = capsys.readouterr().out
    assert re.match(r"a sparse step takes \d+\.\d\d of a dense one\n", printed)
    for line in ("sparse kernels:", "regions, each computed as a whole:", "measured:"):
        assert line in printed
