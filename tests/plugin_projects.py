"""Installs a small plugin project in a separate folder, offline: ``python plugin_projects.py FROM TO``."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

from forks import can_fork, fork

HERE_ALONE = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")
"""Set by the Makefile, and relative to the project's root."""


def python(folder: Path, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run this Python in the folder."""
    own = [*map(str, arguments)]
    everywhere = {name: value for name, value in os.environ.items() if name not in HERE_ALONE} | environment
    if own[:2] == ["-m", "pytest"] and can_fork(own):
        ((status, out, err),) = fork(own, [everywhere], folder)
        return subprocess.CompletedProcess(own, status, out, err)
    return subprocess.run(
        [sys.executable, *own], cwd=folder, capture_output=True, text=True, check=False, env=everywhere
    )


def install(project: Path, place: Path) -> None:
    """Install the project by pip; where nothing can build it, put its file and its metadata there by hand."""
    if find_spec("hatchling"):
        options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", place.resolve())
        done = python(project, "-m", "pip", "install", *options, ".")
        assert done.returncode == 0, done.stderr
        return
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    name, version = settings["project"]["name"], settings["project"]["version"]
    metadata = place / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    ((group, entries),) = settings["project"]["entry-points"].items()
    lines = [f"[{group}]", *(f"{plugin} = {value}" for plugin, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for file in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]:
        shutil.copy(project / file, place)


if __name__ == "__main__":
    install(Path(sys.argv[1]), Path(sys.argv[2]))
