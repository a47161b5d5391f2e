"""The catalogue of plugins, from the installed entry points: summary, options with defaults, and promises."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from griffe import Docstring, DocstringSectionKind
from site_reference import plain

from sparsecore.errors import SparsecoreError
from sparsecore.plugins.discovery import GROUPS, load
from sparsecore.plugins.listing import Listing, listings

TITLES: Mapping[str, str] = {
    "strategy": "Strategies",
    "backend": "Backends",
    "model": "Models",
    "dataset": "Data sets",
    "observer": "Observers",
}


@attrs.frozen
class Option:
    """An option of a plugin.

    Attributes:
        name: by which it is set.
        default: as Python writes it; empty if the option has to be given.
        description: from the docstring of the class.
    """

    name: str
    default: str
    description: str


def pages() -> Iterator[tuple[str, str]]:
    """Yield the pages of the catalogue: place on the site and Markdown."""
    found = listings()
    yield "plugins/index.md", _index(found)
    for kind in GROUPS:
        yield f"plugins/{_file(kind)}", _page(kind, [one for one in found if one.kind == kind])


def _file(kind: str) -> str:
    return TITLES[kind].lower().replace(" ", "-") + ".md"


def _index(found: Sequence[Listing]) -> str:
    parts = [
        "# Plugin catalogue",
        "Every plugin that is installed with sparsecore, as `sparsecore plugins` lists them. Plugins of\n"
        "other projects are found by the same entry points; their projects document them.",
    ]
    for kind, title in TITLES.items():
        rows = [f"| [`{one.name}`]({_file(kind)}#{one.name}) | {_summary(one)} |" for one in found if one.kind == kind]
        parts += [f"## {title}", "\n".join(["| name | summary |", "| --- | --- |", *rows])]
    return "\n\n".join(parts) + "\n"


def _summary(listing: Listing) -> str:
    return ("Contributed. " if listing.contributed else "") + plain(listing.summary)


def _page(kind: str, found: Sequence[Listing]) -> str:
    parts = [f"# {TITLES[kind]}", _INTRODUCTIONS[kind]]
    for listing in found:
        parts += [f"## `{listing.name}` {{ #{listing.name} }}", *_entry(listing)]
    return "\n\n".join(parts) + "\n"


_INTRODUCTIONS: Mapping[str, str] = {
    "strategy": "Each is chosen by its name, `--strategy NAME` or `sparsify(..., strategy='NAME')`; options are\n"
    "set by `--set strategy.OPTION=VALUE`, or by an instance of the class. [Strategies](../strategies.md) describes\n"
    "them.",
    "backend": "Each is chosen by `--backend NAME`; options are set by `--set backend.OPTION=VALUE`.",
    "model": "Each is chosen by `--model NAME`; options are set by `--set model.OPTION=VALUE`. Other sizes of a model\n"
    "are named like it, such as `wrn-40-4`.",
    "dataset": "Each is chosen by `--data NAME`; options are set by `--set data.OPTION=VALUE`.",
    "observer": "Each is chosen by `--log NAME`; options are set by `--set log.NAME.OPTION=VALUE`.",
}


def _entry(listing: Listing) -> Iterator[str]:
    if listing.error:
        yield f"Broken: {plain(listing.error)} ({listing.source})."
        return
    yield _summary(listing)
    source, _, value = listing.source.partition(": ")
    yield f"`{value}`, of {source}."
    try:
        plugin = load(listing.kind, listing.name)
    except SparsecoreError as error:
        yield f"Its options are not listed, because it could not be loaded here: {plain(str(error))}"
        return
    rest = _description(plugin)
    if rest:
        yield rest
    options = list(options_of(plugin))
    if options:
        rows = [f"| `{one.name}` | {_code(one.default)} | {plain(one.description)} |" for one in options]
        yield "\n".join(["| option | default | |", "| --- | --- | --- |", *rows])
    else:
        yield "It has no options."
    if listing.kind in {"strategy", "backend"}:
        yield from _promises(listing.name, plugin)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else "required"


def _description(plugin: Any) -> str:
    """Return the text of a docstring between its first line and its sections."""
    sections = Docstring(plugin.__doc__ or "").parse("google")
    texts = [section.value for section in sections if section.kind is DocstringSectionKind.text]
    body = texts[0].partition("\n\n")[2] if texts else ""
    return plain(body).replace("\\|", "|")


def options_of(plugin: Any) -> Iterator[Option]:
    """Yield the options of a plugin: the arguments of an attrs class, in their order.

    Args:
        plugin: the class that an entry point names.
    """
    if not (isinstance(plugin, type) and attrs.has(plugin)):
        return
    described: dict[str, str] = {}
    for base in reversed(plugin.__mro__):
        for section in Docstring(base.__doc__ or "").parse("google"):
            if section.kind is DocstringSectionKind.attributes:
                described |= {one.name: one.description for one in section.value}
    for field in attrs.fields(plugin):
        if field.init:
            description = " ".join(described.get(field.name.lstrip("_"), described.get(field.name, "")).split())
            yield Option(field.alias or field.name, _default(field), description)


def _default(field: Any) -> str:
    if field.default is attrs.NOTHING:
        return ""
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        if field.default.takes_self:
            return "depends on other options"
        return repr(field.default.factory())
    return _in_short(field.default)


def _in_short(value: Any) -> str:
    """Return a value without the arguments of its class that have their defaults."""
    if not attrs.has(type(value)):
        return repr(value)
    given = [
        f"{field.alias}={_in_short(getattr(value, field.name))}"
        for field in attrs.fields(type(value))
        if field.init and getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(given)})"


def _promises(name: str, plugin: Any) -> Iterator[str]:
    from sparsecore.testing.checking import plugin_check

    check = plugin_check(name)
    kind = "backend" if hasattr(plugin, "learner") else "strategy"
    kept = ", ".join(f"`{promise.name}`" for promise in check.promises if promise.applies(check.subject))
    yield f"[Promises](../testing.md#promises-of-a-{kind}) that `sparsecore check {name}` tests: {kept}."
    if kind == "strategy":
        declared = getattr(check.subject.sample.get(name), "declares", None)
        said = [] if declared is None else [one for one in attrs.fields(type(declared)) if _is_said(declared, one.name)]
        if said:
            values = ", ".join(f"`{one.name}={getattr(declared, one.name)!r}`" for one in said)
            yield f"With the defaults it declares {values}."


def _is_said(declared: Any, name: str) -> bool:
    value = getattr(declared, name)
    return value is not None and not callable(value)
