"""Writing the project of a new strategy: the strategy in one file, its test, its entry point."""

import builtins
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from types import MappingProxyType

import attrs

from sparsecore.errors import InputError
from sparsecore.plugins.discovery import installed

_FILES: Mapping[str, str] = MappingProxyType(
    {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        "$module.py": "strategy.py.txt",
        "test_$module.py": "test_strategy.py.txt",
    }
)
"""The files of a project, and the template of each."""

_LONGEST = 50


@attrs.frozen
class Names:
    """The names of the parts of a strategy's project.

    Attributes:
        name: the strategy's name on the command line.
    """

    name: str

    @property
    def title(self) -> str:
        """The name of the class."""
        return "".join(word.capitalize() for word in self.name.split("-"))

    @property
    def module(self) -> str:
        """The name of the module; the prefix keeps it apart from all other modules."""
        return f"sparsecore_{self.name.replace('-', '_')}"

    @property
    def distribution(self) -> str:
        """The name of the project."""
        return f"sparsecore-{self.name}"

    def fill(self, text: str) -> str:
        """Return the text of a template with these names filled in.

        Args:
            text: with ``$name``, ``$title``, ``$module`` and ``$distribution``; a literal dollar is ``$$``.

        Raises:
            KeyError: the text has another placeholder, which is a mistake in the template.
        """
        return Template(text).substitute(
            name=self.name, title=self.title, module=self.module, distribution=self.distribution
        )


def new_strategy(name: str, folder: Path) -> tuple[Path, ...]:
    """Write the project of a new strategy.

    Args:
        name: of the strategy: lower-case words joined by '-'.
        folder: created by this; it may exist if it is empty.

    Returns:
        The paths of the files, the strategy's own first.

    Raises:
        InputError: the name cannot be used, or the folder cannot be made or is not empty.
    """
    templates = _templates()
    names = _checked(name, templates)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"the folder {folder} is not empty; give one that does not exist yet")
        for file, text in templates.items():
            # "x" fails where another process has just written the same file
            with (folder / names.fill(file)).open("x", encoding="utf-8", newline="\n") as opened:
                opened.write(names.fill(text))
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error
    own = folder / f"{names.module}.py"
    return own, *sorted(set(folder.iterdir()) - {own})


def _templates() -> dict[str, str]:
    folder = files("sparsecore") / "templates" / "strategy"
    return {file: (folder / template).read_text("utf-8") for file, template in _FILES.items()}


def _checked(name: str, templates: Mapping[str, str]) -> Names:
    if len(name) > _LONGEST or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise InputError(
            f"a strategy's name is made of lower-case letters and digits, its words joined by '-', as in "
            f"'random-rewiring', and has at most {_LONGEST} characters; given {name!r}"
        )
    entry = next((entry for entry in installed("strategy") if entry.name == name), None)
    if entry is not None:
        raise InputError(f"a strategy named {name!r} is installed already: {entry.value}; choose another name")
    names = Names(name)
    if find_spec(names.module) is not None:
        raise InputError(
            f"the module of a strategy named {name!r} would be {names.module}, and there is one already; choose "
            "another name"
        )
    if names.title in _reserved_names(templates) or names.title.startswith("Test"):
        raise InputError(
            f"the class of a strategy named {name!r} would be {names.title}, which means something else in Python, in "
            "sparsecore or to pytest; choose another name"
        )
    return names


def _reserved_names(templates: Mapping[str, str]) -> set[str]:
    """Return the names that have a meaning in the files already."""
    imported = re.findall(r"^from \S+ import (.+)$", "\n".join(templates.values()), re.MULTILINE)
    return {*dir(builtins), *(word for line in imported for word in line.split(", "))}
