"""The notebooks of examples/notebooks, executed, as pages."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from site_links import SOURCES
from site_repository import ROOT

NOTEBOOKS = ROOT / "examples/notebooks"
_SECONDS = 600
"""How long a cell may take."""
_CACHE = ROOT / "build/notebooks"
"""Where what has been executed is kept, until the notebook or the code changes."""
_PACKAGES = ("sparsecore", "backends", "strategies", "models")


def pages() -> Iterator[tuple[str, str | bytes]]:
    """Execute the notebooks and yield their pages.

    Yields:
        Places on the site, each with Markdown or the bytes of a figure.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text = path.read_text("utf-8")
        kept = _CACHE / f"{path.stem}-{_digest(text)}"
        if not kept.is_dir():
            for old in _CACHE.glob(f"{path.stem}-*"):
                shutil.rmtree(old)
            _write(kept, _executed(path.stem, text))
        for file in sorted(kept.rglob("*")):
            if file.is_file():
                place = f"notebooks/{file.relative_to(kept).as_posix()}"
                yield place, file.read_text("utf-8") if file.suffix == ".md" else file.read_bytes()
        yield f"{SOURCES}examples/notebooks/{path.name}", text


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for package in _PACKAGES:
        for source in sorted((ROOT / package).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder that exists as a whole or not at all."""
    whole = folder.with_name(f"{folder.name}.part")
    for name, content in files.items():
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_bytes(content)
    whole.rename(folder)


def _executed(name: str, text: str) -> dict[str, bytes]:
    """Return the page of a notebook and its figures, by their names."""
    notebook = nbformat.reads(text, as_version=4)
    before = os.environ["PATH"]
    # cells that call sparsecore are to find the one of this environment
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            resources = {"metadata": {"path": folder}}
            NotebookClient(notebook, timeout=_SECONDS, kernel_name="python3", resources=resources).execute()
    finally:
        os.environ["PATH"] = before
    body, produced = MarkdownExporter().from_notebook_node(notebook, resources={"output_files_dir": name})
    download = f"[This notebook](../source/examples/notebooks/{name}.ipynb), executed when this site was built.\n"
    title, _, rest = body.partition("\n\n")
    page = f"{title.strip()}\n\n{download}\n{rest}"
    return {f"{name}.md": page.encode(), **produced["outputs"]}
