"""The hooks of mkdocs: they add the generated pages, rewrite links, and check what was built."""

import re
from pathlib import Path
from typing import Any

# the other modules of this folder are found only while this one is imported
import site_benchmarks
import site_catalogue
import site_check
import site_commands
import site_figures
import site_links
import site_notebooks
import site_reference
import site_results
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from site_repository import read

_log = get_plugin_logger("sparsecore")
_HOME = "---\nhide:\n  - navigation\n---\n\n"
"""Leaves the column at the left out, which would name this page alone."""
_origins: dict[str, str] = {}
"""The file that a page is made of, by the page's place on the site; both as paths with slashes."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated, and expand the folders in the navigation."""
    generated = _generated()
    for place, content in generated.items():
        _add(files, config, place, content)
    texts = {}
    for file in files.documentation_pages():
        origin = _origins.setdefault(file.src_uri, f"docs/{file.src_uri}")
        texts[origin] = file.content_string
    for shown in sorted(site_links.shown_files(texts)):
        place = site_links.place_of(shown)
        if files.get_file_from_path(place) is None:
            _origins[place] = shown
            _add(files, config, place, site_links.source_page(shown))
    for file in list(files):
        if file.src_uri.endswith(".svg"):
            _add(files, config, _dark(file.src_uri), site_figures.darkened(file.content_string))
    config.nav = _expanded(config.nav, files)
    return files


def _generated() -> dict[str, str | bytes]:
    """Return the generated pages and figures by their place on the site."""
    pages: dict[str, str | bytes] = {}
    for origin, place in site_links.PAGES.items():
        pages[place] = (_HOME if place == "index.md" else "") + read(origin)
        _origins[place] = origin
    for place, content in site_benchmarks.pages():
        pages[place] = content
        _origins.setdefault(place, place.replace("benchmarks/", "benchmarks/results/"))
    for module in (site_reference, site_catalogue, site_notebooks):
        for place, content in module.pages():
            pages[place] = content
            _origins[place] = f"docs/{place}"  # its links are those of the site already
    pages["commands.md"] = site_commands.page()
    return pages


def _add(files: Files, config: MkDocsConfig, place: str, content: str | bytes) -> None:
    known = files.get_file_from_path(place)
    if known is not None:
        files.remove(known)
    files.append(File.generated(config, place, content=content))


def _dark(place: str) -> str:
    return f"{place.removesuffix('.svg')}.dark.svg"


def _expanded(nav: Any, files: Files) -> Any:
    """Return the navigation with all pages of a folder in place of the folder's name, such as ``plugins/``."""
    if isinstance(nav, list):
        return [one for entry in nav for one in _spliced(entry, files)]
    if isinstance(nav, dict):
        return {title: _expanded(one, files) for title, one in nav.items()}
    if nav in _NAVIGATIONS:
        return _NAVIGATIONS[nav]()
    return _folder(nav, files) if nav.endswith("/") else nav


_NAVIGATIONS = {"reference/": site_reference.navigation}
"""Folders whose pages are not in the order of their names."""


def _spliced(entry: Any, files: Files) -> list[Any]:
    expanded = _expanded(entry, files)
    return expanded if isinstance(expanded, list) else [expanded]


def _folder(folder: str, files: Files) -> list[Any]:
    inside = [file.src_uri for file in files.documentation_pages() if file.src_uri.startswith(folder)]
    if not inside:
        raise PluginError(f"the navigation of mkdocs.yml names {folder}, in which there are no pages")
    own = [place for place in inside if "/" not in place.removeprefix(folder)]
    own.sort(key=lambda place: (not place.endswith("/index.md"), place))
    below = sorted({place.removeprefix(folder).partition("/")[0] for place in inside if place not in own})
    return [*own, *({name: _folder(f"{folder}{name}/", files)} for name in below)]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite links for the site, tables from results, and figures for both palettes."""
    place = page.file.src_uri
    origin = _origins[place]
    text = site_results.with_tables(markdown, origin)
    text = site_links.replace_links(text, lambda target: site_links.on_site(target, origin, place))
    return re.sub(r"!\[([^\]]*)\]\(([^)\s]+)\.svg\)", r"![\1](\2.svg#only-light)![\1](\2.dark.svg#only-dark)", text)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of each link that leads nowhere and of what a page would load from a network; `--strict` fails then."""
    for sentence in site_check.problems(Path(config.site_dir)):
        _log.warning(sentence)
