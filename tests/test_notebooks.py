"""The notebooks in ``examples/notebooks``: their cells run, and they hold no outputs."""

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import own_modules, sparsecore

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EXPECTED = {"!sparsecore check mistaken.py:Mistaken --promise growth --examples 5": 1}
"""The exit status of commands that are meant to fail."""


def cells(notebook):
    return [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def run(source, space):
    """Run a cell as IPython does, within this process; return what it shows."""
    first, _, rest = source.partition("\n")
    if first.startswith("%%writefile "):
        Path(first.removeprefix("%%writefile ")).write_text(rest)
        return None
    if first.startswith("!"):
        done = sparsecore(*shlex.split(first)[1:])
        assert done.returncode == EXPECTED.get(first, 0), done.stdout + done.stderr
        assert not rest
        return done.stdout
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), space)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    exec(compile(ast.Module([last], []), "cell", "exec"), space)
    return None


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_the_cells_of_a_notebook_run(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    space = {}
    with own_modules(tmp_path):
        shown = [run("".join(cell["source"]), space) for cell in cells(notebook)]
    assert any(hasattr(one, "_repr_html_") and "<table" in (one._repr_html_() or "") for one in shown)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_has_no_outputs_and_the_kernel_that_everybody_has(notebook):
    for cell in cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert json.loads(notebook.read_text("utf-8"))["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.slow
@pytest.mark.integration
def test_the_notebooks_run_in_a_kernel():
    pytest.importorskip("nbmake")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", *map(str, NOTEBOOKS)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=FOLDER.parent.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
