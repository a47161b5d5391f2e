"""Private names of other libraries stand in one folder of the backend, and those of lightning in its callback."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

BACKEND = Path(__file__).parent.parent / "backends/sparsecore_torch"


def private_names(path):
    """The private names that a file of the backend reads from modules or objects that are not its own."""
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "torch":
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            is_own = isinstance(root, ast.Name) and root.id in {"self", "cls", "sys", "copyreg"}
            if not is_own and node.attr not in own:
                yield node.attr


OF_LIGHTNING = {"lightning.py: _average_model", "lightning.py: _avg_fn"}


def test_no_other_file_of_the_backend_reads_a_private_name_of_torch():
    found = {
        f"{path.relative_to(BACKEND)}: {name}"
        for path in BACKEND.rglob("*.py")
        if path.parent.name != "_torch_internals"
        for name in private_names(path)
    }
    assert found == OF_LIGHTNING


@pytest.mark.parametrize(
    ("file", "name"), [("weight_averaging.py", "_average_model"), ("stochastic_weight_avg.py", "_avg_fn")]
)
def test_lightning_has_the_private_names_that_its_callback_reads(file, name):
    package = find_spec("lightning")
    if package is None:
        pytest.skip("lightning is not installed")
    source = (Path(package.origin).parent / "pytorch/callbacks" / file).read_text("utf-8")
    assert re.search(rf"self\.{name}\b.* = ", source), f"{file} of this lightning has no {name}"
