"""The stack of strategies of an engine: one pluggy manager, with the engine's defaults at the bottom.

Each strategy is registered through an adapter, which passes it its own strategy state and tags each result with the
strategy's name for error messages.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pluggy

from sparsecore.engine import growth, hooks
from sparsecore.engine.arrays import Array, Arrays, Counts
from sparsecore.engine.distributions import uniform
from sparsecore.engine.growth import shares
from sparsecore.engine.hooks import HookResult, hookimpl
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.registration import MARK, implemented_hooks, parameters_of
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.errors import InputError, PluginError

DEFAULTS = "defaults"
"""The name of the plugin at the bottom of every stack."""


@attrs.frozen(eq=False)
class Defaults:
    """The plugin at the bottom of every stack, which implements what no strategy does.

    A uniform random start, an update every 100 steps, nothing pruned, proportional shares, random growth, zero values.

    Attributes:
        schedule: the steps after which an update is due.
    """

    schedule: Every = Every(steps=100)

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """Return ⌊(1-s)·D_i⌋ random positions in every tensor."""
        return growth.random_topology(layout, uniform(layout, sparsity), random, arrays)

    @hookimpl
    def young_weights(self) -> YoungWeights:
        """Leave young weights the optimizer's own steps."""
        return YoungWeights()

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Return True every 100 steps."""
        return self.schedule(clock)

    @hookimpl
    def replaces_step(self) -> bool:
        """Return False: the optimizer's step is always taken."""
        return False

    @hookimpl
    def candidates(self, topology: Topology) -> Array:
        """Return no positions."""
        return topology.positions[:0]

    @hookimpl
    def target_size(self, topology: Topology) -> int:
        """Return the number of weights before the update."""
        return topology.size

    @hookimpl
    def perturb_gradient(self, weight_gradient: Array) -> Array:
        """Return the gradient unchanged."""
        return weight_gradient

    @hookimpl
    def forward_view(self, topology: Topology) -> Array:
        """Let all weights take part."""
        return topology.all()

    @hookimpl
    def perturb(self, values: Array) -> Array:
        """Return the values unchanged."""
        return values

    @hookimpl
    def prune(self, topology: Topology) -> Array:
        """Keep all weights."""
        return topology.all()

    @hookimpl
    def initial_momentum(self, grown: Topology, values: Array) -> Array:
        """Return zeros."""
        return grown.arrays.zeros_like(values, grown.size)

    @hookimpl
    def keep_regrown(self, topology: Topology) -> Array:
        """Return True for all weights."""
        return topology.all()

    @hookimpl
    def revise_pruning(self, survives: Array) -> Array:
        """Leave the decision as it is."""
        return survives

    @hookimpl
    def start_values(self, values: Array) -> Array:
        """Return the values unchanged."""
        return values

    @hookimpl
    def allocate(self, total: int, survivors: Counts, room: Counts) -> Counts:
        """Share out in proportion to the survivors: l_i·K/L, exactly."""
        return shares(total, survivors, room)

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, random: Randomness) -> Array:
        """Return uniformly random free positions."""
        return growth.random_free_positions(occupied, counts, random)

    @hookimpl
    def initial_values(self, grown: Topology, values: Array) -> Array:
        """Return zeros."""
        return grown.arrays.zeros_like(values, grown.size)


class StrategyStack:
    """Strategies by name, bottom first, above the engine's defaults; later ones win.

    Args:
        strategies: instances by name, bottom first.

    Raises:
        PluginError: a strategy cannot be registered; the message says why.
    """

    def __init__(self, strategies: Mapping[str, object]) -> None:
        self._manager = _Manager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        self._hooks = {
            name: caller for name, caller in vars(self._manager.hook).items() if isinstance(caller, pluggy.HookCaller)
        }
        arguments = {hook: caller.spec.argnames for hook, caller in self._hooks.items() if caller.spec}
        for name, plugin in {DEFAULTS: Defaults(), **strategies}.items():
            self._register(name, plugin, arguments)
        self.names = tuple(strategies)

    def first_result(self, hook: str, **arguments: Any) -> HookResult:
        """Call a hook and return the result of the topmost plugin whose result is not None.

        Args:
            hook: the hook's name.
            arguments: all of its arguments by name; each plugin gets those that its method takes.

        Raises:
            PluginError: a plugin asked to exit, or raised what is no Exception; or none, not even the defaults, has a
                result.
        """
        result: HookResult | None = self._hooks[hook](**arguments)
        if result is None:
            raise PluginError(f"no plugin of {', '.join((DEFAULTS, *self.names))} returned anything from {hook!r}")
        return result

    def all_results(self, hook: str, **arguments: Any) -> list[HookResult]:
        """Call a hook and return the results of all plugins that are not None, topmost first.

        Args:
            hook: the hook's name.
            arguments: all of its arguments by name; each plugin gets those that its method takes.

        Raises:
            PluginError: a plugin asked to exit, or raised what is no Exception.
        """
        return list(self._hooks[hook](**arguments))

    @property
    def hooks(self) -> tuple[str, ...]:
        """The names of all hooks."""
        return tuple(self._hooks)

    def implementers(self, hook: str) -> list[str]:
        """Return the names of the strategies that implement the hook, topmost first, without the engine's defaults.

        Args:
            hook: the hook's name, which must exist.
        """
        methods = reversed(self._hooks[hook].get_hookimpls())
        return [method.plugin_name for method in methods if method.plugin_name != DEFAULTS]

    def plugins_requesting(self, argument: str, *hooks: str) -> list[str]:
        """Return the names of the strategies with a hook that takes this argument, bottom first.

        Args:
            argument: its name.
            hooks: the hooks to consider; all, if none are given.
        """
        requesting = {
            method.plugin_name
            for hook in hooks or self._hooks
            for method in self._hooks[hook].get_hookimpls()
            if argument in method.argnames
        }
        return [name for name in self.names if name in requesting]

    def _register(self, name: str, plugin: object, arguments: Mapping[str, Sequence[str]]) -> None:
        adapter = _Adapter()
        for hook, method in implemented_hooks(name, plugin, arguments).items():
            setattr(adapter, hook, _tagged(name, hook, method))
        self._manager.register(adapter, name)


class _Manager(pluggy.PluginManager):
    """Reads the marks of hooks where they stand, in modules and adapters, and not wherever pluggy would look for them.

    Engines are created often, and looking for marks would take most of the time.
    """

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        return getattr(vars(module_or_class).get(name), hooks.SPECIFICATION_MARK, None)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        return getattr(vars(plugin).get(name), MARK, None)


class _Adapter:
    """The object that pluggy sees in place of a plugin: hashable, with the hooks as attributes."""


def _tagged(name: str, hook: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a hook: it gets its own plugin's state as ``strategy_state``, and its result carries the plugin's name."""
    parameters = tuple(parameters_of(method))

    @functools.wraps(method)  # pluggy reads the arguments from what is wrapped
    def call(*given: Any) -> HookResult | None:
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
        except BaseException as error:  # no caller catches what is no Exception, such as pytest's skip
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise PluginError(f"the hook {hook!r} of plugin {name!r} raised {what}") from error
        return None if value is None else HookResult(name, value)

    setattr(call, MARK, getattr(method, MARK))
    return call


def strategies_by_name(strategies: Mapping[str, object] | Sequence[object]) -> dict[str, object]:
    """Return strategies by name; instances that are given in a list are named by their classes.

    Raises:
        InputError: two have one name, or a name is that of the engine's defaults.
    """
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
    if DEFAULTS in by_name:
        raise InputError(f"{DEFAULTS!r} is the name of the plugin at the bottom of every stack; choose another")
    return by_name
