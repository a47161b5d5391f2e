"""Pages of the reference: the public API, read from the sources without importing them.

A page is made for each public module; a large one is divided by the modules in which its objects are defined. The pages
hold directives of mkdocstrings, which renders signatures and docstrings.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import attrs
from griffe import GriffeLoader
from site_repository import ROOT

SEARCH_PATHS = (".", "backends", "backends/sparsecore_cpu/src", "strategies", "models")
"""Folders with packages, from the root of the repository; those of mkdocs.yml."""

PUBLIC: Mapping[str, Sequence[str]] = {
    "Sparse training in PyTorch": (
        "sparsecore_torch",
        "sparsecore_torch.sparse_training.export",
        "sparsecore_torch.lightning",
        "sparsecore_torch.transformers",
    ),
    "Sparse training in JAX": ("sparsecore_jax",),
    "Strategies": ("sparsecore.strategy", "sparsecore.engine.hooks", "sparsecore"),
    "Predictions": ("sparsecore_cpu.inference",),
    "Test kit": ("sparsecore.testing",),
    "Observers and notebooks": ("sparsecore.observers", "sparsecore.notebook.plots"),
    "Backends": (
        "sparsecore_numpy",
        "sparsecore_cpu",
        "sparsecore.learning.protocols",
        "sparsecore.engine.arrays",
        "sparsecore.learning.ranks",
    ),
    "Models and data sets": (
        "sparsecore.learning.operations",
        "sparsecore.learning.parameters",
        "sparsecore.learning.optimizers",
        "sparsecore.data.images",
    ),
}
"""The modules whose public names are documented, by the part of the reference."""

_LARGE = 14
"""Public names beyond which a module has a page for each module that defines them."""


_FIRST = ("sparsify", "SparseTraining", "Predictor", "StrategyTests", "BackendTests")
"""Names that a page begins with; the others follow in the order of the source."""


@attrs.frozen
class Entry:
    """A public object.

    Attributes:
        path: by which it is imported.
        canonical: where it is defined.
        summary: the first line of its docstring.
        members: names of its public members.
    """

    path: str
    canonical: str
    summary: str
    members: tuple[str, ...]

    @property
    def module(self) -> str:
        """The module that defines it."""
        return self.canonical.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Its name without the module."""
        return self.path.rpartition(".")[2]


@attrs.frozen
class Module:
    """A public module.

    Attributes:
        path: by which it is imported.
        docstring: its docstring.
        entries: its public objects, in the order of the source.
    """

    path: str
    docstring: str
    entries: tuple[Entry, ...]


@cache
def _loader() -> GriffeLoader:
    loader = GriffeLoader(search_paths=[ROOT / folder for folder in SEARCH_PATHS], allow_inspection=False)
    for package in sorted({module.partition(".")[0] for modules in PUBLIC.values() for module in modules}):
        loader.load(package)
    loader.resolve_aliases(external=False)
    return loader


@cache
def module(path: str) -> Module:
    """Return a module with its public objects: those of ``__all__``, or else those that it defines itself.

    Args:
        path: by which it is imported, such as ``sparsecore.strategy``.

    Raises:
        ValueError: ``__all__`` has a name that the module neither defines nor imports.
    """
    found = _loader().modules_collection[path]
    exported = None if found.exports is None else {str(name) for name in found.exports}
    lacking = {name for name in exported or () if not name.startswith("__")} - found.members.keys()
    if lacking:
        raise ValueError(
            f"the source of {path} does not show what these public names are: {', '.join(sorted(lacking))}"
        )
    entries = []
    for name, member in found.members.items():
        is_public = name in exported if exported is not None else not (name.startswith("_") or member.is_alias)
        if not is_public or name.startswith("__"):
            continue
        if not member.is_module:
            entry = _entry(f"{path}.{name}", member.final_target if member.is_alias else member)
        elif name in member.members:  # a function in a module of its name, which hides it here
            entry = _entry(f"{path}.{name}.{name}", member.members[name])
        else:
            continue
        if entry.summary or exported is not None:
            entries.append(entry)
    entries.sort(key=lambda entry: _FIRST.index(entry.name) if entry.name in _FIRST else len(_FIRST))
    return Module(path, found.docstring.value if found.docstring else "", tuple(entries))


def _entry(path: str, found: Any) -> Entry:
    members = tuple(name for name, one in found.members.items() if not name.startswith("_") and one.docstring)
    return Entry(path, found.canonical_path, _summary(found), members)


def _summary(found: Any) -> str:
    return found.docstring.value.strip().partition("\n")[0] if found.docstring else ""


@cache
def documented() -> Mapping[str, str]:
    """Return where each object is documented: its path in the reference by the path of its definition.

    An object of several public modules is documented with the first one; members of classes and the modules themselves
    are among the objects.
    """
    found = {path: path for paths in PUBLIC.values() for path in paths}
    for modules in PUBLIC.values():
        for path in modules:
            for entry in module(path).entries:
                if entry.canonical not in found:
                    found[entry.canonical] = entry.path
                    found |= {f"{entry.canonical}.{name}": f"{entry.path}.{name}" for name in entry.members}
    return found


def pages() -> Iterator[tuple[str, str]]:
    """Yield the pages of the reference: place on the site and Markdown."""
    yield "reference/index.md", _index()
    for modules in PUBLIC.values():
        for path in modules:
            yield from _pages_of(module(path))


def navigation() -> list[Any]:
    """Return the navigation of the reference, by its parts."""
    return [
        "reference/index.md",
        *({part: [_navigation(module(path)) for path in paths]} for part, paths in PUBLIC.items()),
    ]


def _navigation(found: Module) -> dict[str, Any]:
    places = [place for place, _ in _pages_of(found)]
    first = [place for place in places if place.endswith("/index.md")]
    return {found.path: [*first, *(place for place in places if place not in first)] if first else places[0]}


def _is_large(found: Module) -> bool:
    return len(_own(found)) > _LARGE and len({entry.module for entry in _own(found)}) > 1


def _own(found: Module) -> list[Entry]:
    """Return the objects that are documented with this module and not with an earlier one."""
    return [entry for entry in found.entries if documented()[entry.canonical] == entry.path]


def _place(entry: Entry) -> str:
    path = documented()[entry.canonical].rpartition(".")[0]
    if not _is_large(module(path)):
        return f"reference/{path}.md"
    return f"reference/{path}/{entry.module.rpartition('.')[2]}.md"


def _pages_of(found: Module) -> Iterator[tuple[str, str]]:
    own = _own(found)
    elsewhere = [entry for entry in found.entries if entry not in own]
    options = "members: false\n      show_root_heading: false\n      show_root_toc_entry: false"
    title = found.path.replace(".", ".<wbr>")  # a long path may be broken after each dot
    head = f"# {title} {{ #{found.path} }}\n\n::: {found.path}\n    options:\n      {options}\n"
    if not _is_large(found):
        parts = [head, *map(_directive, own)]
        if elsewhere:
            parts += ["## Also here\n", _table(elsewhere)]
        yield f"reference/{found.path}.md", "\n".join(parts)
        return
    groups: dict[str, list[Entry]] = {}
    for entry in own:
        groups.setdefault(entry.module, []).append(entry)
    parts = [head]
    for defining, entries in groups.items():
        title = defining.rpartition(".")[2].replace("_", " ").capitalize()
        parts += [f"## {title}\n", f"{_summary_of(defining)}\n", _table(entries)]
        body = [f"# {title} ({found.path})\n", f"{_summary_of(defining)}\n", *map(_directive, entries)]
        yield f"reference/{found.path}/{defining.rpartition('.')[2]}.md", "\n".join(body)
    if elsewhere:
        parts += ["## Also here\n", _table(elsewhere)]
    yield f"reference/{found.path}/index.md", "\n".join(parts)


def _summary_of(path: str) -> str:
    return _summary(_loader().modules_collection[path])


def _directive(entry: Entry) -> str:
    return f"::: {entry.path}\n"


def _table(entries: Sequence[Entry]) -> str:
    rows = [f"| [`{entry.name}`][{documented()[entry.canonical]}] | {plain(entry.summary)} |" for entry in entries]
    return "\n".join(["| Name | Summary |", "| --- | --- |", *rows, ""])


def plain(text: str) -> str:
    """Return a line of a docstring for a cell of a table in Markdown.

    Args:
        text: with roles such as ``:class:`Clock```, double backticks and bars.
    """
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return text.replace("|", "\\|")


def _index() -> str:
    lines = [
        "# Python API",
        "",
        "The public modules, generated from their docstrings. Anything else may change without notice. What the",
        "[plugins](../plugins/index.md) take as options is in their catalogue; the [commands](../commands.md) have a",
        "page of their own.",
    ]
    for part, modules in PUBLIC.items():
        lines += ["", f"## {part}", ""]
        for path in modules:
            found = module(path)
            place = f"{path}/index.md" if _is_large(found) else f"{path}.md"
            lines.append(f"- [`{path}`]({place}): {plain(found.docstring.strip().partition(chr(10))[0])}")
    return "\n".join(lines) + "\n"
