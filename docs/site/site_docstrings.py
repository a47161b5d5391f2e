"""An extension of griffe: cross-references of docstrings become links, and attrs classes have signatures."""

import ast
import re
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
    decorators = [str(one.value).partition("(")[0] for one in found.decorators]
    if not any(one in _ATTRS for one in decorators) or "__init__" in found.members:
        return
    parameters = [Parameter("self", kind=ParameterKind.positional_or_keyword)]
    for name, member in found.members.items():
        if member.is_alias or not member.is_attribute:
            continue
        annotation = str(member.annotation or "")
        if not annotation or annotation.startswith("ClassVar") or "property" in member.labels:
            continue
        is_parameter, default = _default(str(member.value) if member.value is not None else None)
        if is_parameter:
            parameters.append(
                Parameter(
                    name.lstrip("_"),
                    annotation=member.annotation,
                    kind=ParameterKind.positional_or_keyword,
                    default=default,
                )
            )
    constructor = GriffeFunction("__init__", parameters=Parameters(*parameters), parent=found)
    found.set_member("__init__", constructor)


def _default(value: str | None) -> tuple[bool, str | None]:
    """Return whether a field is a parameter, and its default as it is written."""
    if value is None:
        return True, None
    if not re.match(r"(attrs\.field|per_weight|per_position|field)\(", value):
        return True, value
    call = ast.parse(value, mode="eval").body
    if not isinstance(call, ast.Call):
        return True, value
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "init" in given and ast.unparse(given["init"]) == "False":
        return False, None
    if "default" in given:
        return True, ast.unparse(given["default"])
    return True, "…" if "factory" in given else None
