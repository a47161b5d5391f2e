"""A stack of plugins on one pluggy manager.

Each plugin is registered through an adapter, which passes it its own strategy state and tags each result with the
plugin's name for error messages.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pluggy

from sparsecore.engine import hooks
from sparsecore.engine.registration import MARK, implemented_hooks
from sparsecore.errors import InputError, PluginError


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
        arguments = {hook: caller.spec.argnames for hook, caller in self._hooks.items() if caller.spec}
        for name, plugin in plugins.items():
            self._register(name, plugin, arguments)
        self.names = tuple(plugins)

    def ask(self, hook: str, **arguments: Any) -> Answer:
        """The answer of the topmost plugin that has one."""
        answer: Answer | None = self._hooks[hook](**arguments)
        if answer is None:
            raise PluginError(f"no plugin of {', '.join(self.names)} answered the hook {hook!r}")
        return answer

    def ask_all(self, hook: str, **arguments: Any) -> list[Answer]:
        """The answer of every plugin that has one, topmost first."""
        return list(self._hooks[hook](**arguments))

    def deciding(self, hook: str) -> list[str]:
        """The plugins that implement the hook, topmost first."""
        return [method.plugin_name for method in reversed(self._hooks[hook].get_hookimpls())]

    def asking_for(self, argument: str, *hooks: str) -> list[str]:
        """The plugins with a hook that takes this argument, bottom first; one of these hooks, where any are given."""
        asking = {
            method.plugin_name
            for hook in hooks or self._hooks
            for method in self._hooks[hook].get_hookimpls()
            if argument in method.argnames
        }
        return [name for name in self.names if name in asking]

    def _register(self, name: str, plugin: object, arguments: Mapping[str, Sequence[str]]) -> None:
        stand_in = _StandIn()
        for hook, method in implemented_hooks(name, plugin, arguments).items():
            setattr(stand_in, hook, _signed(name, hook, method))
        self._manager.register(stand_in, name)


class _StandIn:
    """What pluggy sees of a plugin: hashable, and with hooks for attributes."""


def _signed(name: str, hook: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method with its own plugin's state for ``strategy_state`` and its answer signed with the plugin's name."""
    parameters = tuple(inspect.signature(method).parameters)

    @functools.wraps(method)  # pluggy reads the arguments from what is wrapped
    def answer(*given: Any) -> Answer | None:
        arguments = dict(zip(parameters, given, strict=True))
        if "strategy_state" in arguments:
            arguments["strategy_state"] = arguments["strategy_state"].get(name)
        try:
            value = method(**arguments)
        except SystemExit as error:
            raise PluginError(f"the hook {hook!r} of plugin {name!r} asked to exit ({error})") from error
        except Exception as error:
            error.add_note(f"raised in the hook {hook!r} of plugin {name!r}")
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what is no Exception, as pytest's skip, is caught by nobody else
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise PluginError(f"the hook {hook!r} of plugin {name!r} raised {what}") from error
        return None if value is None else Answer(name, value)

    setattr(answer, MARK, getattr(method, MARK))
    return answer


def named(strategies: Mapping[str, object] | Sequence[object]) -> dict[str, object]:
    """Strategies by name, from that or from a list of instances, which are named by their classes."""
    if isinstance(strategies, Mapping):
        by_name = dict(strategies)
    elif not isinstance(strategies, list | tuple):
        raise InputError(f"strategies are a list, or a dict of names; given {strategies!r}")
    else:
        by_name = {type(strategy).__name__: strategy for strategy in strategies}
        if len(by_name) < len(strategies):
            classes = ", ".join(type(strategy).__name__ for strategy in strategies)
            raise InputError(
                f"two strategies of one class are stacked: {classes}; give them as a dict of distinct names"
            )
    if "base" in by_name:
        raise InputError("'base' is the name of the plugin at the bottom of every stack; choose another")
    return by_name
