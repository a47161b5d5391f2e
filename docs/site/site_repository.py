"""The repository that the site is built from."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The root of the repository."""


def read(file: str) -> str:
    """Return the text of a file.

    Args:
        file: a path from the root of the repository.
    """
    return (ROOT / file).read_text("utf-8")


def first_heading(text: str) -> str:
    """Return the title of a page, or '' if it has none."""
    return next((line.removeprefix("# ").strip() for line in text.splitlines() if line.startswith("# ")), "")
