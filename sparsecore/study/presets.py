"""The studies that come with sparsecore: TOML files beside this one; and a user's own, of the same form."""

import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from sparsecore.errors import InputError, unknown
from sparsecore.experiment.text import read_toml
from sparsecore.study.arms import Study


def names() -> list[str]:
    """The presets' names."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def study_of(name: str) -> Study:
    """The preset of this name, or the study in this file.

    Raises:
        InputError: there is neither, or the file is no study.
    """
    if name in names():
        return Study.of(tomllib.loads((_folder() / f"{name}.toml").read_text("utf-8")))
    if name.endswith(".toml"):
        return Study.of({"name": Path(name).stem, **read_toml(Path(name))})
    raise InputError(f"{unknown('study', name, names())}; a file of one's own ends in .toml")


def _folder() -> Traversable:
    return files("sparsecore.study") / "presets"
