"""What is checked of the built site: every link leads somewhere, and no page loads anything from a network."""

import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADING = {(tag, "src") for tag in ("script", "img", "source", "iframe", "video", "audio")} | {("object", "data")}
_LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch"}


class _Page(HTMLParser):
    """The links and anchors of a page, and what it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.loaded += [given[name] for name in given if (tag, name) in _LOADING]
        if tag == "link" and _LOADING_LINKS & set(given.get("rel", "").split()):
            self.loaded.append(given.get("href", ""))
        self.loaded += re.findall(r"url\(['\"]?([^)'\"]+)", given.get("style", ""))


def problems(site: Path) -> Iterator[str]:
    """Yield a sentence for each link that leads nowhere, and for each file that would come from a network.

    Args:
        site: the folder of the built site.
    """

    @cache
    def page(path: Path) -> _Page:
        return _Page(path.read_text("utf-8"))

    for path in sorted(site.rglob("*.html")):
        here = path.relative_to(site)
        for target in page(path).loaded:
            if re.match(r"(?:[a-z]+:)?//", target):
                yield f"{here} loads {target}"
        for target in (*page(path).links, *page(path).loaded):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target.startswith("data:"):
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if here.name == "404.html":  # its links begin at the root of a server
                continue
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                yield f"{here} links to {target}, which does not exist"
            elif parts.fragment and file.suffix == ".html" and not _has(page(file), unquote(parts.fragment)):
                yield f"{here} links to {target}, but there is no such anchor"
    for path in sorted(site.rglob("*.css")):
        for target in re.findall(r"(?:url\(|@import\s+)['\"]?((?:https?:)?//[^)'\"\s]+)", path.read_text("utf-8")):
            yield f"{path.relative_to(site)} loads {target}"


def _has(page: _Page, anchor: str) -> bool:
    # Material's marks of images for one palette are no anchors, nor are those of its own scripts
    return anchor in page.anchors or anchor in {"only-light", "only-dark"} or anchor.startswith(("__", ":~:"))
