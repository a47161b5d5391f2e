"""The repository that the site is built from."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
"""The root of the repository."""


def read(file: str) -> str:
    """Return the text of a file.

    Args:
        file: a path from the root of the repository.
    """
    return (ROOT / file).read_text("utf-8")


def script(file: str) -> ModuleType:
    """Return a script as a module, which finds the scripts beside it.

    Args:
        file: a path from the root of the repository, such as ``benchmarks/cpu_step.py``.

    Raises:
        ImportError: the script imports something that is not installed.
    """
    folder = str((ROOT / file).parent)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(Path(file).stem)
    finally:
        sys.path.remove(folder)


def first_heading(text: str) -> str:
    """Return the title of a page, or '' if it has none."""
    return next((line.removeprefix("# ").strip() for line in text.splitlines() if line.startswith("# ")), "")
