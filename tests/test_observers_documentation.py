"""The examples of docs/observers.md and docs/notebooks.md run as printed, and tables have what there is."""

import csv
import re

import pytest
from pages import ROOT, code, read

torch = pytest.importorskip("torch")

from sparsecore.observers import Observer
from sparsecore.plugins.discovery import installed


def test_the_page_runs_and_its_log_has_the_lines_that_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space = {}
    for block in code("docs/observers.md"):
        exec(block, space)
    rows = list(csv.reader((tmp_path / "log.csv").read_text().splitlines()))
    shown = re.search(r"```text\n(.*?)```", read("docs/observers.md"), re.DOTALL)[1].split()
    assert [",".join(row) for row in rows[: len(shown) - 2]] == shown[:-2]
    assert {int(step) for step, _, _ in rows[1:]} == {0, 100, 200, 300}
    assert rows[4] == ["100", "sparsity", "0.9"]


def test_the_page_about_notebooks_runs_and_names_all_notebooks(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (block,) = code("docs/notebooks.md")
    exec(block, {})
    assert (tmp_path / "moves.png").exists()
    for notebook in (ROOT / "examples" / "notebooks").glob("*.ipynb"):
        assert f"](../examples/notebooks/{notebook.name})" in read("docs/notebooks.md")


def test_the_tables_name_all_logs_and_all_methods():
    page = read("docs/observers.md")
    for entry in installed("observer"):
        assert f"| `{entry.name}`, `{entry.value.partition(':')[2]}` |" in page
    for method in vars(Observer):
        if not method.startswith("_") and method != "itop":
            assert f"| `{method}(" in page
