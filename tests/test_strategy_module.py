"""``sparsecore.strategy`` is the one module that an author of strategies imports."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sparsecore
import sparsecore.strategy

ROOT = Path(__file__).parent.parent
STRATEGIES = sorted((ROOT / "strategies" / "sparsecore_strategies").glob("*.py"))
TEMPLATES = sorted((ROOT / "sparsecore" / "templates" / "strategy").glob("*.py.txt"))


def imported(source: str) -> set[str]:
    """The modules of sparsecore that this source imports from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module.partition(".")[0] == "sparsecore"}


@pytest.mark.parametrize("file", STRATEGIES, ids=lambda file: file.stem)
def test_bundled_strategies_import_only_the_strategy_module(file: Path) -> None:
    assert imported(file.read_text("utf-8")) <= {"sparsecore.strategy"}


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_a_new_project_imports_only_the_strategy_module_and_the_test_kit(file: Path) -> None:
    source = re.sub(r"\$(\w+)", r"\1", file.read_text("utf-8"))
    assert imported(source) <= {"sparsecore.strategy", "sparsecore.testing"}


def test_the_page_on_strategies_imports_only_the_strategy_module_and_the_test_kit() -> None:
    page = (ROOT / "docs" / "write-a-strategy.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    assert set().union(*map(imported, blocks)) <= {"sparsecore.strategy", "sparsecore.testing"}


def test_all_public_names_of_the_strategy_module_exist() -> None:
    assert sparsecore.strategy.__all__ == sorted(sparsecore.strategy.__all__)
    assert [name for name in sparsecore.strategy.__all__ if not hasattr(sparsecore.strategy, name)] == []


def test_the_docstring_of_the_strategy_module_lists_every_name() -> None:
    named = set(re.findall(r"``(\w+)``", sparsecore.strategy.__doc__ or ""))
    assert named == set(sparsecore.strategy.__all__)


HEAVY = ["torch", "click", "cattrs", "rich", "sklearn", "matplotlib", "safetensors", "tomllib"]


@pytest.mark.integration
@pytest.mark.parametrize("module", ["sparsecore", "sparsecore.strategy"])
def test_importing_the_strategy_module_is_cheap(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ast.literal_eval(done.stdout) == []


def test_the_version_is_that_of_the_checkout() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert sparsecore.__version__ == project["version"]


def test_an_installed_copy_has_the_version_of_its_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsecore, "__file__", str(tmp_path / "sparsecore" / "__init__.py"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"sparsecore-engine": "7.8.9"}[name])
    assert sparsecore.__version__ == "7.8.9"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\nversion = "1.0"\n')
    assert sparsecore.__version__ == "7.8.9"


def test_other_attributes_of_the_package_are_missing_as_usual() -> None:
    with pytest.raises(AttributeError, match="'sparsecore' has no attribute 'engin'"):
        importlib.import_module("sparsecore").engin  # noqa: B018
