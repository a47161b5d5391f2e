"""The installed plugins, listed without importing any of them.

A plugin's summary is read from its source: the docstring of the class, or of the module. So are the errors that the
source shows: a missing module, a syntax error, a missing object, an import of something that is not installed.
"""

import ast
import importlib.util
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import attrs

from sparsecore.plugins.discovery import GROUPS, installed

_CONTRIBUTED = "sparsecore_contrib"
"""The package of plugins that others maintain."""


@attrs.frozen
class Listing:
    """An installed plugin.

    Attributes:
        kind: 'strategy', 'backend', 'model', 'dataset' or 'observer'.
        name: the name that selects it.
        source: the distribution and the object that the entry point names.
        summary: the first line of its docstring; empty where it is broken or has none.
        error: why it cannot be used; None where no error was found.
        contributed: whether others have written and maintain it, below strategies/sparsecore_contrib/.
    """

    kind: str
    name: str
    source: str
    summary: str
    error: str | None
    contributed: bool = False


def listings() -> list[Listing]:
    """Return every installed plugin, the broken ones included, by kind and name."""
    return [_listing(kind, entry) for kind in GROUPS for entry in installed(kind)]


def _listing(kind: str, entry: EntryPoint) -> Listing:
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
    try:
        summary, error = _summary(entry), None
    except _BrokenError as found:
        summary, error = "", str(found)
    except Exception as found:  # an unexpected error in one plugin must not hide the others
        summary, error = "", repr(found)
    contributed = entry.value.startswith(f"{_CONTRIBUTED}.")
    return Listing(kind, entry.name, f"{distribution}: {entry.value}", summary, error, contributed)


class _BrokenError(Exception):
    """A plugin cannot be used; the message says why."""


def _summary(entry: EntryPoint) -> str:
    module, colon, attribute = entry.value.partition(":")
    module, attribute = module.strip(), attribute.partition("[")[0].strip()
    if not (colon and module and attribute):
        raise _BrokenError(f"the entry point {entry.value!r} is not of the form package.module:Object")
    path = _source_file(module)
    if path is None or path.suffix != ".py":
        return ""
    try:
        tree = ast.parse(path.read_bytes(), str(path.name))
    except (SyntaxError, ValueError) as error:
        raise _BrokenError(f"{type(error).__name__}: {error}") from None
    _check_runs(tree, module)
    return _first_line(_definition(tree, attribute.partition(".")[0], module), tree)


def _source_file(module: str) -> Path | None:
    parts = module.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError) as error:
        raise _BrokenError(f"{type(error).__name__}: {error}") from None
    if spec is None:
        raise _BrokenError(f"ModuleNotFoundError: No module named {parts[0]!r}")
    if len(parts) == 1 and spec.origin is None:
        raise _BrokenError(f"{module!r} is a folder without an __init__.py, and has no objects")
    if len(parts) == 1:
        return Path(spec.origin) if spec.origin and spec.origin not in {"built-in", "frozen"} else None
    # the folders are walked by hand: find_spec of a submodule would import its parents
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*parts[1:])
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                return candidate
        if any(base.parent.glob(f"{base.name}.*")):
            return None
    raise _BrokenError(f"ModuleNotFoundError: No module named {module!r}")


def _check_runs(tree: ast.Module, module: str) -> None:
    """Raise an error for statements that would certainly fail on import."""
    for node in tree.body:
        if isinstance(node, ast.Raise):
            raise _BrokenError(
                f"{module} raises {ast.unparse(node.exc) if node.exc else 'an error'} when it is imported"
            )
        for name in _imported(node):
            try:
                found = importlib.util.find_spec(name) is not None
            except (ImportError, ValueError):
                found = True  # the module is in an unusual state, and only an import would show whether it works
            if not found:
                raise _BrokenError(f"ModuleNotFoundError: No module named {name!r}")


def _imported(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0]


def _definition(tree: ast.Module, name: str, module: str) -> ast.AST | None:
    """Return the class or function of this name; None where the name is bound in another way."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.alias) and (node.asname or node.name) in {name, "*"}:
            return None
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return None
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        return None
    raise _BrokenError(f"AttributeError: {module} has no {name!r}")


def _first_line(definition: ast.AST | None, tree: ast.Module) -> str:
    documented = definition if isinstance(definition, ast.ClassDef | ast.FunctionDef) else tree
    return (ast.get_docstring(documented) or "").partition("\n")[0]
