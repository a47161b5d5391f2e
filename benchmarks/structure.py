"""How the code is divided: files, functions, imports, docstrings, and the files that one operation enters.

    python benchmarks/structure.py
    python benchmarks/structure.py --folders

print totals, or one row per folder. Lines and functions are read with ``ast``, imports with grimp (which comes with
import-linter), and the files entered by an operation with ``sys.setprofile``. A figure says what to look at, not
what is good.
"""

import argparse
import ast
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sparsecore", "backends", "strategies", "models")
PACKAGES = ("sparsecore", "sparsecore_numpy", "sparsecore_torch")
SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:")
TARGETS = {
    "files": "at most 190",
    "class names twice in one folder": "none",
    "circles between folders or modules of a package": "none",
    "public functions with Args, Returns or Raises, %": "above 50",
    "files entered by one reallocation": "at most 14",
    "files entered by a training step on NumPy": "at most 12",
    "files entered by a training step on the CPU backend": "at most 12",
    "files entered by a quiet step under sparsify": "at most 12",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    parser.add_argument("--folders", action="store_true", help="print one row per folder: files, lines and docstrings")
    options = parser.parse_args()
    if options.folders:
        print_folders()
        return
    figures = {**of_files(), **of_imports(), **of_operations()}
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, figure in figures.items():
            print(f"{name:<52} {figure:>8}  {TARGETS.get(name, '')}".rstrip())


def of_files() -> dict[str, Any]:
    """Files, lines, functions, classes and docstrings."""
    files = sources()
    texts = [path.read_text() for path in files]
    trees = {path: ast.parse(text) for path, text in zip(files, texts, strict=True)}
    lines = [text.count("\n") for text in texts]
    nodes = {path: list(ast.walk(tree)) for path, tree in trees.items()}
    functions = [node for each in nodes.values() for node in each if isinstance(node, ast.FunctionDef)]
    classes = {path: [node for node in each if isinstance(node, ast.ClassDef)] for path, each in nodes.items()}
    named = Counter(node.name for each in classes.values() for node in each)
    by_folder: dict[tuple[Path, str], int] = Counter(
        (path.parent, n.name) for path, each in classes.items() for n in each
    )
    public = [function for tree in trees.values() for function in public_functions(tree)]
    return {
        "files": len(files),
        "lines": sum(lines),
        "mean lines a file": round(statistics.mean(lines)),
        "median lines a function": statistics.median((node.end_lineno or 0) - node.lineno + 1 for node in functions),
        "protocols": sum(
            any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
            for each in classes.values()
            for node in each
        ),
        "class names in two or more modules": sum(count > 1 for count in named.values()),
        "class names twice in one folder": sum(count > 1 for count in by_folder.values()),
        "public functions with Args, Returns or Raises, %": round(100 * sum(map(is_documented, public)) / len(public)),
    }


def sources() -> list[Path]:
    """The files of the project's packages."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts)


def print_folders() -> None:
    """Print one row per folder: files, lines, the longest file, public functions with arguments, documented ones."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in sources():
        by_folder[path.parent.relative_to(ROOT)].append(path)
    print(f"{'folder':<62} files  lines  longest  functions  documented")
    for folder, files in sorted(by_folder.items()):
        texts = [path.read_text() for path in files]
        functions = [function for text in texts for function in public_functions(ast.parse(text))]
        lines = [text.count("\n") for text in texts]
        share = f"{100 * sum(map(is_documented, functions)) / len(functions):.0f} %" if functions else ""
        print(f"{folder!s:<62} {len(files):>5}  {sum(lines):>5}  {max(lines):>7}  {len(functions):>9}  {share:>10}")


def public_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Public functions and methods that take arguments."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return [node for node in nodes if not node.name.startswith("_") and node.args.args]


def is_documented(function: ast.FunctionDef) -> bool:
    """Whether its docstring has a section on arguments, results or errors."""
    return any(section in (ast.get_docstring(function) or "") for section in SECTIONS)


def of_imports() -> dict[str, Any]:
    """Importers, chains of imports, and circles between folders."""
    import grimp

    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    importers = Counter(target for targets in imports.values() for target in targets)
    return {
        "modules with one importer": sum(count == 1 for count in importers.values()),
        "longest chain of imports": longest_chain(imports),
        "circles between folders or modules of a package": sum(
            bool(graph.nominate_cycle_breakers(package))
            for package in graph.modules
            if len(graph.find_children(package)) > 1
        ),
    }


def longest_chain(imports: dict[str, set[str]]) -> int:
    """The number of modules in the longest chain of imports without a repeated module on a circle."""
    lengths: dict[str, int] = {}

    def length(module: str, above: frozenset[str]) -> int:
        if module not in lengths:
            below = (length(target, above | {module}) for target in imports[module] if target not in above)
            lengths[module] = 1 + max(below, default=0)
        return lengths[module]

    return max(length(module, frozenset()) for module in imports)


def of_operations() -> dict[str, Any]:
    """The files of the project that are entered by one operation, after one of its kind has been done."""
    return {f"files entered by {name}": entered(operation) for name, operation in operations()}


def entered(operation: Callable[[], object]) -> int:
    """How many of the project's files have a function that the operation calls."""
    files: set[str] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        operation()
    finally:
        sys.setprofile(None)
    folders = tuple(str(ROOT / folder) for folder in FOLDERS)
    return sum(name.startswith(folders) for name in files)


def operations() -> Iterator[tuple[str, Callable[[], object]]]:
    """One reallocation by DPR, training steps of the host backends, a step and an update of ``sparsify``, by name."""
    import numpy as np
    import torch
    from networks import learner, step_of

    from sparsecore import Engine, Every, Layout
    from sparsecore_cpu import CpuBackend
    from sparsecore_models.wrn import WideResNet
    from sparsecore_numpy import NumpyArrays, NumpyBackend
    from sparsecore_strategies.dpr import DynamicReallocation
    from sparsecore_torch import sparsify

    layout = Layout.of({"first": (64, 32), "second": (32, 64)})
    strategy = DynamicReallocation(target="20%", schedule=Every(steps=2))
    engine = Engine(layout, [strategy], arrays=NumpyArrays())
    state = engine.start(0.9)
    values = np.random.default_rng(0).normal(size=state.topology.size).astype(np.float32)
    state, reallocation = engine.update(state, values)
    yield "one reallocation", lambda: engine.update(state, reallocation.values)

    for name, backend in {"NumPy": NumpyBackend(), "the CPU backend": CpuBackend(1)}.items():
        train = step_of(learner(backend, (12, 12, 3), 0.9, WideResNet(10, 1)), 8)
        train()
        yield f"a training step on {name}", train

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsify(model, optimizer, strategy=strategy, sparsity=0.9)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()

    for _ in range(4):
        step()
    yield "a quiet step under sparsify", step
    yield "an update under sparsify", step


if __name__ == "__main__":
    main()
