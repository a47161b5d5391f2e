"""Links of the pages: between files of the repository on GitHub, between pages on the site.

A page is written once, with links that work on GitHub. On the site, files of docs/ keep their places, some other files
become pages, and every other file that a page links to becomes a page that shows its text.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from site_repository import ROOT

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    ".github/CODE_OF_CONDUCT.md": "code-of-conduct.md",
    ".github/SECURITY.md": "security.md",
    "backends/sparsecore_cpu/README.md": "cpu-backend.md",
    "strategies/sparsecore_contrib/README.md": "contribute-a-strategy.md",
    "benchmarks/README.md": "benchmarks/index.md",
}
"""Pages of the site by the files outside docs/ that they are made of."""

FOLDERS = {"docs/": "", "benchmarks/results/": "benchmarks/", "examples/notebooks/": "notebooks/"}
"""Folders whose files have a place on the site, by their path from the root of the repository."""

SOURCES = "source/"
"""The folder of the site with the text of files that are no pages."""

_LINK = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<opening>\]\()(?P<target>[^()\s]+)(?=\))",
    re.DOTALL | re.MULTILINE,
)


def replace_links(text: str, replacement: Callable[[str], str]) -> str:
    """Return Markdown with other targets of its inline links and images; code stays as it is.

    Args:
        text: Markdown.
        replacement: the new target for a target, such as ``../README.md#try-it``.
    """
    return _LINK.sub(lambda link: link[0] if link["code"] else link["opening"] + replacement(link["target"]), text)


def links(text: str) -> Iterator[str]:
    """Yield the targets of a text's inline links and images, from top to bottom."""
    for link in _LINK.finditer(text):
        if not link["code"]:
            yield link["target"]


def is_external(target: str) -> bool:
    """Return whether a link leads to another site."""
    return re.match(r"[a-z][a-z0-9+.-]*:", target) is not None


def file_of(target: str, origin: str) -> str:
    """Return the file that a link leads to, as a path from the root of the repository.

    Args:
        target: a relative link, without its anchor; empty for the page itself.
        origin: the file that the link stands in, as a path from the root.
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target)) if target else origin


def place_of(file: str) -> str:
    """Return the place of a file on the site, as mkdocs names it (``src_uri``).

    Args:
        file: a path from the root of the repository.
    """
    if file in PAGES:
        return PAGES[file]
    for folder, place in FOLDERS.items():
        if file.startswith(folder):
            return place + file.removeprefix(folder).replace(".ipynb", ".md")
    return f"{SOURCES}{file.lstrip('.')}.md"  # mkdocs leaves out what begins with a dot


def on_site(target: str, origin: str, place: str) -> str:
    """Return a link of a file as a link of its page.

    A link to a file that does not exist is returned as it is, so that mkdocs reports it.

    Args:
        target: the link in the file.
        origin: the file, as a path from the root of the repository.
        place: the page's place on the site.
    """
    path, sharp, anchor = target.partition("#")
    if is_external(target) or not path:
        return target
    file = file_of(path, origin)
    if not (ROOT / file).exists():
        return target
    return posixpath.relpath(place_of(file), posixpath.dirname(place) or ".") + sharp + anchor


def shown_files(texts: dict[str, str]) -> set[str]:
    """Return the files and folders that pages link to and that become pages with what is in them.

    Args:
        texts: Markdown by the file that it stands in.
    """
    targets = {
        file_of(one.partition("#")[0], file)
        for file, text in texts.items()
        for one in links(text)
        if not is_external(one)
    }
    return {file for file in targets if place_of(file).startswith(SOURCES) and (ROOT / file).exists()}


def source_page(file: str) -> str:
    """Return the page that shows the text of a file, or the names in a folder.

    Args:
        file: a path from the root of the repository.
    """
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {Path(file).name}\n\n`{file}`\n\n"
    if (ROOT / file).is_dir():
        names = sorted(one.name for one in (ROOT / file).iterdir() if not one.name.startswith(("__", ".")))
        return head + "\n".join(f"- `{name}`" for name in names) + "\n"
    languages = {".py": "python", ".toml": "toml", ".sh": "sh", ".cff": "yaml", ".hpp": "cpp", ".cpp": "cpp"}
    text = (ROOT / file).read_text("utf-8")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    language = languages.get(Path(file).suffix, "text")
    return f"{head}{fence}{language}\n{text.rstrip()}\n{fence}\n"
