"""What docs/sparsify.md shows works as it stands there."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

PAGE = (Path(__file__).parent.parent / "docs/sparsify.md").read_text("utf-8")


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(block, space)
    shown = re.search(r"^prints\n\n(.*?)^\(the numbers", PAGE, re.DOTALL | re.MULTILINE)
    numbers = re.compile(r"[\d.,]+")
    printed = [numbers.sub("#", line).split() for line in capsys.readouterr().out.splitlines()]
    assert printed == [numbers.sub("#", line).split() for line in shown[1].strip("\n").splitlines()]
    assert space["training"].step == 0
    assert (tmp_path / "at.pt").exists()
