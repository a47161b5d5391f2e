"""Reading the pages of the documentation, and doing what they show."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
from command_line import own_modules, sparsecore

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent
SAVED = re.compile(r"(?:[Ss]ave\s+(?:this|it)\s+as|[Aa]dd\s+(?:this\s+)?to)\s+`([\w.-]+)`")

COMMANDS = {
    "sparsecore": """
case "$1 $2" in
*Backend) set -- "$@" --examples 3;;
check*) set -- "$@" --examples 3 --backend numpy;;
esac
exec "$PYTHON" -m sparsecore "$@"
""",
    "python": """
case "$*" in
"-m pip install "*) exec "$PYTHON" "$HERE/plugin_projects.py" . "$SITE";;
"-m pytest"*)
  set -- "$@" -p no:cacheprovider -p no:anyio -p no:nbmake -p no:jaxtyping
  set -- "$@" -k "test_the or test_what or nothing or growth or argsort or relu";;
esac
exec "$PYTHON" "$@"
""",
}
"""What the commands of the pages are in the tests: the same ones, with fewer examples and without a network."""


@attrs.frozen
class Block:
    """A fenced block of code: its language, its text, and the paragraph before it."""

    language: str
    code: str
    introduction: str


def read(page: str) -> str:
    """Returns the text of a page, given by its path from the root of the repository."""
    return (ROOT / page).read_text("utf-8")


def blocks(page: str) -> Iterator[Block]:
    """Yields the fenced blocks of a page, from top to bottom."""
    text = read(page)
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        introduction = text[: match.start()].rstrip().rpartition("\n\n")[2]
        yield Block(match[1], match[2], introduction)


def code(page: str, language: str = "python") -> list[str]:
    """Returns the text of all blocks of one language."""
    return [block.code for block in blocks(page) if block.language == language]


def walk(page: str, folder: Path) -> None:
    """Do what a page says, from top to bottom: save its files, run its commands and its other Python.

    A block is a file if the paragraph before it says "Save this as `NAME`" or "Add to `NAME`".
    """
    commands, site = folder / "commands", folder / "site"
    commands.mkdir()
    for name, script in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/sh{script}")
        (commands / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "HERE": str(HERE),
        "SITE": str(site),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for block in blocks(page):
        file = SAVED.search(block.introduction)
        if file is not None:
            with (folder / file[1]).open("a") as written:
                written.write(f"\n\n{block.code}")
        elif block.language == "python":
            with contextlib.chdir(folder), own_modules(folder):
                exec(block.code, {"__name__": "__main__"})
        elif block.language == "sh":
            for done in _commands(block.code, folder, environment):
                assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"


def _commands(code: str, folder: Path, environment: Mapping[str, str]) -> "Iterator[subprocess.CompletedProcess[str]]":
    """Runs a block of commands: in this process where all of them are sparsecore's, else by a shell."""
    lines = [shlex.split(line) for line in code.replace("\\\n", " ").splitlines()]
    # a check starts processes that find its plugin as this one does
    if all(line[0] == "sparsecore" and line[1] != "check" for line in lines):
        yield from (sparsecore(*line[1:], cwd=folder) for line in lines)
    else:
        command = ["sh", "-e", "-c", code]
        yield subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
