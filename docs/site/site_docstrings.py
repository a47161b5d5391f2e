"""An extension of griffe: cross-references of docstrings become links, and attrs classes have signatures."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from griffe import Class, Extension, Object, Parameter, ParameterKind, Parameters
from griffe import Function as GriffeFunction
from site_reference import documented

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)([^`]+)`")
_ATTRS = ("attrs.frozen", "attrs.define", "attrs.mutable")


class Docstrings(Extension):
    """Rewrites the docstrings of all loaded packages."""

    def on_package(self, *, pkg: Object, **_: Any) -> None:
        """Rewrite a package once all of its modules are loaded."""
        _visit(pkg)


def _visit(found: Object) -> None:
    if found.docstring is not None:
        found.docstring.value = with_links(found.docstring.value, found)
    if isinstance(found, Class):
        _add_constructor(found)
    for member in list(found.members.values()):
        if not member.is_alias:
            _visit(member)  # type: ignore[arg-type]


def with_links(text: str, scope: Object) -> str:
    """Return a docstring whose roles are links to the reference, or code where the reference has no such object.

    Args:
        text: such as ``the :class:`Clock` of the step``.
        scope: the object that the docstring belongs to.
    """

    def link(role: re.Match[str]) -> str:
        name = role[2]
        label = name.rpartition(".")[2] if role[1] or name.startswith("sparsecore") else name
        return link_to(name, label)

    def link_to(name: str, label: str = "") -> str:
        target = _target(name, scope)
        return f"[`{label or name}`][{target}]" if target else f"`{label or name}`"

    text = _ROLE.sub(link, text)
    if scope.is_module:  # the docstring of a module introduces what the module has
        exported = {str(name) for name in scope.exports or ()}
        text = re.sub(r"``(\w+)``", lambda name: link_to(name[1]) if name[1] in exported else name[0], text)
    return re.sub(r"``([^`\n]+)``", r"`\1`", text)


def _target(name: str, scope: Object) -> str | None:
    """Return the path in the reference of a name that a docstring uses."""
    known = documented()
    holder: Any = scope
    while holder is not None:
        for candidate in (f"{holder.canonical_path}.{name}", _resolved(name, holder)):
            if candidate in known:
                return known[candidate]
        holder = holder.parent
    return known.get(name, name if name in known.values() else None)


def _resolved(name: str, holder: Object) -> str:
    first, _, rest = name.partition(".")
    try:
        path = holder.resolve(first)
    except Exception:  # griffe raises several errors for names that it does not find
        return ""
    return f"{path}.{rest}" if rest else path


def _add_constructor(found: Class) -> None:
    """Give a class made by attrs the parameters of its constructor, which griffe does not know."""
    if not _is_of_attrs(found) or "__init__" in found.members:
        return
    only_named = any("kw_only=True" in str(one.value) for one in found.decorators)
    # a field of a class stands in place of one of the same name of a base
    by_name = {
        parameter.name: parameter
        for one in _lineage(found)
        for name, member in one.members.items()
        if not member.is_alias and member.is_attribute and "property" not in member.labels
        for parameter in _parameters(name, member, only_named)
    }
    parameters = sorted(by_name.values(), key=lambda parameter: parameter.kind is ParameterKind.keyword_only)
    this = Parameter("self", kind=ParameterKind.positional_or_keyword)
    found.set_member("__init__", GriffeFunction("__init__", parameters=Parameters(this, *parameters), parent=found))


def _is_of_attrs(found: Class) -> bool:
    return any(str(one.value).partition("(")[0] in _ATTRS for one in found.decorators)


def _lineage(found: Class) -> list[Class]:
    """Return a class below its bases that attrs has made, too, as far as these are known."""
    try:
        return [*filter(_is_of_attrs, reversed(found.mro())), found]
    except Exception:  # griffe raises several errors for bases that it does not know
        return [found]


def _parameters(name: str, field: Any, only_named: bool) -> Iterator[Parameter]:
    """Yield the parameter of a field of an attrs class, if it has one."""
    annotation = str(field.annotation or "")
    if not annotation or annotation.startswith("ClassVar"):
        return
    default = str(field.value) if field.value is not None else None
    if default is not None and re.match(r"(attrs\.field|per_weight|per_position)\(", default):
        call = ast.parse(default, mode="eval").body
        given = {one.arg: ast.unparse(one.value) for one in call.keywords} if isinstance(call, ast.Call) else {}
        if given.get("init") == "False":
            return
        only_named = only_named or given.get("kw_only") == "True"
        default = given.get("default", "…" if "factory" in given else None)
    kind = ParameterKind.keyword_only if only_named else ParameterKind.positional_or_keyword
    yield Parameter(name.lstrip("_"), annotation=field.annotation, kind=kind, default=default)
