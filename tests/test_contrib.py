"""Contributed strategies: each has one row here, and every row is checked in the same way.

strategies/sparsecore_contrib/README.md says how to add one. What distinguishes a strategy has a test file of its own.
"""

import ast
import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from command_line import SMALL, small_images
from dense_oracles import drawn
from hypothesis import strategies as st
from in_process import run_in_process
from pages import ROOT, read, walk

from sparsecore.plugins.discovery import installed, load
from sparsecore.strategy import Clock, Engine, Every, Layout
from sparsecore.testing import StrategyTests, hyperparameters
from sparsecore_strategies.set import SparseEvolution

pytestmark = pytest.mark.usefixtures("quick_runs")


@attrs.frozen
class Contribution:
    """What is tested of a contributed strategy.

    Attributes:
        below: names of the strategies that it is stacked on; none for one that is complete.
        options: options with which it is tested, beside its defaults.
        packages: packages that it needs, of an extra; where one is missing, its tests are skipped.
    """

    below: Sequence[str] = ()
    options: Sequence[Mapping[str, Any]] = ()
    packages: Sequence[str] = ()


TABLE: Mapping[str, Contribution] = {
    "sensitivity-drop": Contribution(
        below=["set"],
        options=[{"criterion": criterion, "drop_fraction": 0.3} for criterion in ("sensitivity", "reciprocal")],
    ),
}

FOLDER = ROOT / "strategies/sparsecore_contrib"
ENTRIES = {entry.name: entry for entry in installed("strategy") if entry.value.startswith("sparsecore_contrib.")}
ROOMY = Layout.of({"kernels": (6, 4, 3, 3), "matrix": (20, 15), "vector": (12,)})
CASES = [(name, options) for name, row in TABLE.items() for options in ({}, *row.options)]

of_each = pytest.mark.parametrize("name", TABLE)
of_each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name} {given}" for name, given in CASES])


def skip_without_packages(name: str) -> None:
    for package in TABLE[name].packages:
        pytest.importorskip(package)


def stack_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    skip_without_packages(name)
    below = {other: load("strategy", other)(schedule=Every(steps=2)) for other in TABLE[name].below}
    return {**below, name: load("strategy", name)(**options)}


def promises_of(name: str) -> type:
    """A test class with a test for each promise; pieces are stacked on SET, which decides the rest."""
    strategy = load("strategy", name)
    classes = (SparseEvolution, strategy) if TABLE[name].below else (strategy,)
    stacks = st.tuples(*map(hyperparameters, classes))
    tests = type(f"Test {name}", (StrategyTests,), {"strategy": stacks, "max_examples": 2, "backends": ("numpy",)})
    tests.test_processes = pytest.mark.slow(tests.test_processes)  # type: ignore[attr-defined]
    return tests


for _name, _row in TABLE.items():
    if all(map(find_spec, _row.packages)) and _name in ENTRIES:
        globals()[f"Test {_name}"] = promises_of(_name)


def test_every_contribution_is_one_file_with_a_name_a_row_here_and_a_row_with_its_owner_on_the_page() -> None:
    modules = {path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    assert {entry.value.partition(":")[0].partition(".")[2] for entry in ENTRIES.values()} == modules
    assert {path.name for path in FOLDER.iterdir()} - {"__pycache__"} == {
        "README.md",
        "py.typed",
        "__init__.py",
        *(f"{module}.py" for module in modules),
    }
    assert set(ENTRIES) == set(TABLE)
    rows = re.findall(r"^\| \[`([a-z-]+)`\]\(#\1\) \| (.+) \| (.+) \| (.+) \|$", read("docs/contrib.md"), re.MULTILINE)
    assert [name for name, *_ in rows] == sorted(TABLE)
    for name, _, paper, owner in rows:
        assert "arxiv.org/abs/" in paper or "doi.org/" in paper or paper.startswith("none"), name
        assert owner.strip(), name


def imports_of(module: Path) -> tuple[set[str], set[str]]:
    """The modules that a file imports, and those of them that it imports outside functions."""
    tree = ast.parse(module.read_text("utf-8"))
    found = {node: names for node in ast.walk(tree) if (names := _imported(node))}
    inside = {
        node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    return set().union(*found.values()), set().union(*(names for node, names in found.items() if node not in inside))


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {f"{'.' * node.level}{node.module or ''}"} if isinstance(node, ast.ImportFrom) else set()


@of_each
def test_a_contribution_imports_the_strategy_module_attrs_numpy_and_packages_of_its_extra_inside_functions(
    name: str,
) -> None:
    module = FOLDER / f"{ENTRIES[name].value.partition(':')[0].partition('.')[2]}.py"
    everywhere, outside = imports_of(module)
    usual = {"sparsecore.strategy", "attrs", "numpy", "numpy.typing"}
    strange = {one for one in everywhere - usual if one.partition(".")[0] not in sys.stdlib_module_names}
    assert {one.partition(".")[0] for one in strange} <= set(TABLE[name].packages)
    assert not strange & outside


def ended(arrays: Any, stack: Mapping[str, Any]) -> tuple[Any, Any, int]:
    """Positions and values after some steps with the same numbers, on the host."""
    algorithm = Engine(ROOMY, dict(stack), arrays=arrays, seed=3)
    state = algorithm.start(0.8, clock=Clock(total_steps=8))
    whole = np.concatenate(list(drawn(ROOMY).values()))
    values = arrays.take(arrays.from_numpy(whole), state.topology.positions)
    for step in range(1, 7):
        dense = {name: arrays.from_numpy(array) for name, array in drawn(ROOMY, step).items()}
        joined = arrays.concatenate(list(dense.values()))
        active = arrays.take(joined, state.topology.positions)
        advance = algorithm.advance(state, values, 0.1, dense.__getitem__, weight_gradient=active)
        state, values = advance.state, advance.values
    return arrays.to_numpy(state.topology.positions), arrays.to_numpy(values), state.clock.updates


@pytest.mark.parametrize("backend", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
@of_each_case
def test_all_backends_take_the_same_decisions(name: str, options: Mapping[str, Any], backend: str) -> None:
    """The CPU backend has the arrays of NumPy."""
    pytest.importorskip(backend)
    (positions, values, updates), there = (
        ended(load("backend", each)().arrays, stack_of(name, options)) for each in ("numpy", backend)
    )
    assert updates == there[2] >= 1
    np.testing.assert_array_equal(there[0], positions)
    np.testing.assert_allclose(there[1], values, rtol=1e-6)


@of_each_case
def test_both_storages_of_sparsify_take_the_same_decisions(name: str, options: Mapping[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    from sparsify_examples import mlp, sgd, train

    from sparsecore_torch import sparsify

    ends = []
    for storage in ("masked", "compact"):
        model = mlp()
        optimizer = sgd(model)
        stack = list(stack_of(name, options).values())
        training = sparsify(model, optimizer, strategy=stack, sparsity=0.7, total_steps=9, seed=1, storage=storage)
        train(model, optimizer, range(6))
        assert training.updates >= 1
        ends.append(training.topology.positions)
    assert torch.equal(*ends)


@of_each
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_packages(name)
    from sparsecore.run.recording import RunFolderWriter

    stack = [part for one in (*TABLE[name].below, name) for part in ("--strategy", one)]
    schedules = [part for one in TABLE[name].below for part in ("--set", f"strategy.{one}.schedule={{steps=3}}")]
    given = ("train", *stack, *schedules, *SMALL, "--backend", "numpy", "--data-dir", small_images(tmp_path / "x.npz"))
    assert run_in_process(*given, "--out", tmp_path / "whole").status == 0
    save = RunFolderWriter.save

    def save_and_stop(self: RunFolderWriter, *arguments: Any) -> None:
        save(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolderWriter, "save", save_and_stop)
        run_in_process(*given, "--out", tmp_path / "stopped")
    assert not (tmp_path / "stopped/result.json").exists()
    assert run_in_process("train", "--resume", "--out", tmp_path / "stopped").status == 0
    for file in ("checkpoint.safetensors", "reallocations.jsonl"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_the_list_of_plugins_marks_what_is_contributed() -> None:
    listed = json.loads(run_in_process("plugins", "--json").stdout)
    assert {one["name"] for one in listed if one["contributed"]} == set(TABLE)
    table = run_in_process("plugins").stdout
    assert table.count("Contributed.") == len(TABLE)


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    walk("docs/contrib.md", tmp_path)
