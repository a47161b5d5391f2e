"""The examples of docs/export.md run as printed."""

from importlib.util import find_spec

import pytest
from pages import code

torch = pytest.importorskip("torch")

NEEDED = {"to_onnx(": "onnxruntime"}


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space = {}
    for block in code("docs/export.md"):
        if all(find_spec(package) for text, package in NEEDED.items() if text in block):
            exec(block, space)
    dense = sum(parameter.numel() * 4 for parameter in space["plain"].parameters())
    assert (tmp_path / "network.safetensors").stat().st_size < dense / 7
    copied = space["export"].squashed_copy(space["training"]).state_dict()
    assert all(torch.equal(one, copied[name]) for name, one in space["plain"].state_dict().items())
