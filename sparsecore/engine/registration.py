"""Checks of what is registered as a plugin: mistakes that pluggy passes over in silence become errors."""

import difflib
import functools
import inspect
import itertools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sparsecore.engine.hooks import PROJECT
from sparsecore.errors import PluginError

MARK = f"{PROJECT}_impl"
"""The attribute that ``@hookimpl`` leaves on a method."""

Method = Callable[..., Any]


def implemented_hooks(name: str, plugin: object, hooks: Mapping[str, Sequence[str]]) -> dict[str, Method]:
    """Return the methods of a plugin that implement hooks, by the names of the hooks.

    Args:
        name: the plugin's name.
        plugin: the instance.
        hooks: every hook there is, with its arguments.

    Raises:
        PluginError: pluggy would refuse the plugin, or silently never call one of its methods.
    """
    if isinstance(plugin, type):
        raise PluginError(f"plugin {name!r} is the class {plugin.__name__}; give an instance, {plugin.__name__}(...)")
    if type(plugin).__hash__ is None:
        raise PluginError(
            f"plugin {name!r} is mutable and compared by value; what changes belongs in its strategy state: "
            f"declare the class {type(plugin).__name__} with @attrs.frozen(eq=False)"
        )
    methods = dict(_marked_methods(name, plugin, hooks))
    for hook, method in methods.items():
        for error in _method_errors(hook, method, hooks):
            raise PluginError(f"{hook!r} of plugin {name!r} {error}")
    with_state = [hook for hook, method in methods.items() if "strategy_state" in parameters_of(method)]
    if with_state and "initial_strategy_state" not in methods:
        raise PluginError(
            f"{', '.join(map(repr, with_state))} of plugin {name!r} takes strategy_state, but there is no "
            "initial_strategy_state"
        )
    if not methods:
        raise PluginError(
            f"plugin {name!r} of type {type(plugin).__name__} implements no hook; the hooks are "
            f"{', '.join(sorted(hooks))}, each marked with @hookimpl"
        )
    return methods


def _marked_methods(name: str, plugin: object, hooks: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Any]]:
    cls: Any = type(plugin)
    properties = _properties(cls)
    for attribute in dir(plugin):
        if attribute.startswith("__"):
            continue
        # a property is not read: it may run any code
        method = None if attribute in properties else _content(name, plugin, attribute)
        if hasattr(method, MARK):
            yield attribute, method
        elif attribute in hooks:
            raise PluginError(
                f"{type(plugin).__name__}.{attribute} of plugin {name!r} has the name of a hook but is not a method "
                "marked as one and would never be called; put @hookimpl above it"
            )


@functools.lru_cache(maxsize=1024)
def _properties(cls: type) -> frozenset[str]:
    """Return the names of a class's properties; looking attributes up without reading them takes long."""
    return frozenset(
        attribute for attribute in dir(cls) if isinstance(inspect.getattr_static(cls, attribute, None), property)
    )


def _content(name: str, plugin: object, attribute: str) -> Any:
    try:
        return getattr(plugin, attribute, None)
    except Exception as error:
        raise PluginError(f"{attribute!r} of plugin {name!r} cannot be read: {error!r}") from error


def _method_errors(hook: str, method: Method, hooks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Reasons why pluggy could not call the method, or not as its author meant it, as ends of a sentence."""
    if hook not in hooks:
        close = difflib.get_close_matches(hook, hooks, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        yield f"is no hook; the hooks are {', '.join(sorted(hooks))}{meant}"
    options = getattr(method, MARK)
    unwanted = [option for option in ("wrapper", "hookwrapper", "tryfirst", "trylast") if options.get(option)]
    if unwanted:
        yield (f"is marked {', '.join(unwanted)}; the order of plugins is that of the stack alone")
    if not inspect.isroutine(method):
        yield f"is a {type(method).__name__}; a hook is a plain method"
    function = _plain_function(method)
    given = tuple(hooks[hook])
    yield from _signature_errors(method, given) if function is None else _first_error_of(function, given)


_DEFERRED = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
"""Functions whose call does not run them."""


def _signature_errors(method: Method, given: Sequence[str]) -> Iterator[str]:
    """Errors in the arguments of a method, as ends of a sentence; ``given`` are those of the hook."""
    function = inspect.unwrap(getattr(method, "__func__", method))
    if any(is_one(function) for is_one in _DEFERRED):
        yield "is a coroutine or a generator; a hook is a plain method that returns its result"
    own = list(_parameters(function))
    if inspect.ismethod(method) and (not own or own[0] in given):
        yield "has no self; write it as a method, with self for its first argument"
    parameters = parameters_of(method).values()
    strange = [str(parameter) for parameter in parameters if parameter.name not in given]
    if strange:
        yield f"takes {', '.join(strange)}; the arguments of this hook are {', '.join(given)}"
    unfilled = [p.name for p in parameters if p.default is not p.empty or p.kind is not p.POSITIONAL_OR_KEYWORD]
    if unfilled:
        yield (
            f"gives {', '.join(unfilled)} a default or makes it keyword-only, and so would never receive it; "
            "write it as a plain argument"
        )


def parameters_of(method: Method) -> Mapping[str, inspect.Parameter]:
    """Return the parameters with which a method is called, by name, in their order, without ``self``.

    Engines are created often, and of the same classes: the parameters of a function are read once.

    Args:
        method: a bound method, or anything else that can be called.
    """
    function = _plain_function(method)
    return inspect.signature(method).parameters if function is None else _parameters_after_self(function)


def _plain_function(method: Method) -> Method | None:
    """Return the function of a bound method; None for anything else that can be called."""
    function: Method | None = getattr(method, "__func__", None)
    return function if type(method) is types.MethodType and type(function) is types.FunctionType else None


@functools.lru_cache(maxsize=4096)
def _first_error_of(function: Method, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return an error in the arguments of methods of this function, if there is one; it is that of all instances."""
    return tuple(itertools.islice(_signature_errors(types.MethodType(function, object()), given), 1))


@functools.lru_cache(maxsize=1024)
def _parameters(function: Method) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


@functools.lru_cache(maxsize=1024)
def _parameters_after_self(function: Method) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(types.MethodType(function, object())).parameters
