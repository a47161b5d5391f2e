"""A stack of plugins on one pluggy manager, with pluggy's silent traps turned into errors.

Each plugin is registered through a stand-in that gives it its own memory and signs its answers, so that a broken
promise can be laid at the right door.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import pluggy

from sparsecore import hooks
from sparsecore.errors import PluginError

_MARK = f"{hooks.PROJECT}_impl"


@attrs.frozen(eq=False)
class Answer:
    """What a plugin answered to a hook."""

    plugin: str
    value: Any


class Stack:
    """Plugins by name, bottom first; later ones win."""

    def __init__(self, plugins: Mapping[str, object]) -> None:
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        self._hooks = {
            name: caller for name, caller in vars(self._manager.hook).items() if isinstance(caller, pluggy.HookCaller)
        }
        for name, plugin in plugins.items():
            self._register(name, plugin)
        self.names = tuple(plugins)

    def ask(self, hook: str, **arguments: Any) -> Answer:
        """The answer of the topmost plugin that has one."""
        answer = self._hooks[hook](**arguments)
        if answer is None:
            raise PluginError(f"no plugin of {', '.join(self.names)} answered the hook {hook!r}")
        assert isinstance(answer, Answer)
        return answer

    def ask_all(self, hook: str, **arguments: Any) -> list[Answer]:
        """The answer of every plugin that has one, topmost first."""
        return list(self._hooks[hook](**arguments))

    def _register(self, name: str, plugin: object) -> None:
        if isinstance(plugin, type):
            raise PluginError(
                f"plugin {name!r} is the class {plugin.__name__}; give an instance, {plugin.__name__}(...)"
            )
        if type(plugin).__hash__ is None:
            raise PluginError(
                f"plugin {name!r} is mutable and compared by value; what changes belongs into its memory: "
                f"declare the class {type(plugin).__name__} with @attrs.frozen(eq=False)"
            )
        implemented = dict(self._implemented(name, plugin))
        if not implemented:
            raise PluginError(
                f"plugin {name!r} of type {type(plugin).__name__} implements no hook; the hooks are "
                f"{', '.join(sorted(self._hooks))}, each marked with @hookimpl"
            )
        stand_in = _StandIn()
        for hook, method in implemented.items():
            setattr(stand_in, hook, _signed(name, method, getattr(method, _MARK)))
        self._manager.register(stand_in, name)

    def _implemented(self, name: str, plugin: object) -> "list[tuple[str, Callable[..., Any]]]":
        found = []
        for attribute in dir(plugin):
            if attribute.startswith("__") or isinstance(inspect.getattr_static(plugin, attribute, None), property):
                continue
            method = getattr(plugin, attribute, None)
            if not callable(method):
                continue
            if hasattr(method, _MARK):
                self._check_signature(name, attribute, method)
                found.append((attribute, method))
            elif attribute in self._hooks:
                raise PluginError(
                    f"{type(plugin).__name__}.{attribute} of plugin {name!r} has the name of a hook but is not marked "
                    "as one and would never be called; put @hookimpl above it"
                )
        return found

    def _check_signature(self, name: str, hook: str, method: Callable[..., Any]) -> None:
        where = f"{hook!r} of plugin {name!r}"
        if hook not in self._hooks:
            close = difflib.get_close_matches(hook, self._hooks, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise PluginError(f"{where} is no hook; the hooks are {', '.join(sorted(self._hooks))}{meant}")
        options = getattr(method, _MARK)
        unwanted = [option for option in ("wrapper", "hookwrapper", "tryfirst", "trylast") if options.get(option)]
        if unwanted:
            raise PluginError(
                f"{where} is marked {', '.join(unwanted)}; a plugin answers a hook or leaves it to those below, "
                "and the order is that of the stack"
            )
        spec = self._hooks[hook].spec
        assert spec is not None
        for trouble in _signature_troubles(method, spec.argnames):
            raise PluginError(f"{where} {trouble}")


def _signature_troubles(method: Callable[..., Any], given: Sequence[str]) -> Iterator[str]:
    """Why pluggy could not call the method, or not as its author meant; ``given`` are the hook's arguments."""
    function = inspect.unwrap(getattr(method, "__func__", method))
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        yield "is a coroutine or a generator; a hook is a plain method that returns its answer"
    own = list(inspect.signature(function).parameters)
    if inspect.ismethod(method) and (not own or own[0] in given):
        yield "has no self; write it as a method, with self for its first argument"
        return
    parameters = inspect.signature(method).parameters.values()
    strange = [str(parameter) for parameter in parameters if parameter.name not in given]
    if strange:
        yield f"asks for {', '.join(strange)}; what this hook gives is {', '.join(given)}"
    unfilled = [p.name for p in parameters if p.default is not p.empty or p.kind is not p.POSITIONAL_OR_KEYWORD]
    if unfilled:
        yield (
            f"gives {', '.join(unfilled)} a default or makes it keyword-only, and so would never be given it; "
            "write it as a plain argument"
        )


class _StandIn:
    """What pluggy sees of a plugin: hashable, and with hooks for attributes."""


def _signed(name: str, method: Callable[..., Any], options: Any) -> Callable[..., Any]:
    """The method with its own plugin's memory for ``memory`` and its answer signed with the plugin's name."""
    parameters = tuple(inspect.signature(method).parameters)

    @functools.wraps(method)  # pluggy reads the arguments from what is wrapped
    def answer(*given: Any) -> Answer | None:
        arguments = dict(zip(parameters, given, strict=True))
        if "memory" in arguments:
            arguments["memory"] = arguments["memory"].get(name)
        try:
            value = method(**arguments)
        except Exception as error:
            error.add_note(f"raised in the hook {method.__name__!r} of plugin {name!r}")
            raise
        return None if value is None else Answer(name, value)

    setattr(answer, _MARK, options)
    return answer
