"""A plugin together with its hyperparameters, as an experiment names it."""

import tomllib
from collections.abc import Mapping
from typing import Any

import attrs
import tomli_w

from sparsecore.errors import InputError, PluginError
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.plugins.discovery import guard_plugin_code, load


@attrs.frozen(eq=False)
class PluginChoice:
    """A plugin with its hyperparameters.

    Attributes:
        name: the name that selected it.
        plugin: the instance.
    """

    name: str
    plugin: Any

    @classmethod
    def of(cls, kind: str, table: Mapping[str, Any]) -> "PluginChoice":
        """Load the plugin named ``table['name']``, with the rest of the table as its hyperparameters.

        Args:
            kind: model, dataset, backend, strategy or observer.
            table: the name and the hyperparameters.

        Raises:
            InputError: there is no such plugin, or it does not have such hyperparameters.
            PluginError: the plugin is broken.
        """
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise InputError(f"a {kind} is given as a table with a name; given {table!r}")
        name: str = table["name"]
        with guard_plugin_code(kind, name):
            plugin = _instance(kind, name, {key: value for key, value in table.items() if key != "name"})
            return cls(name, _read_back(plugin, f"{kind}.{name}") if attrs.has(type(plugin)) else plugin)

    def table(self) -> dict[str, Any]:
        """The table that :meth:`of` reads, hyperparameters left at their defaults included."""
        return {"name": self.name, **(unstructure(self.plugin) if attrs.has(type(self.plugin)) else {})}


def _instance(kind: str, name: str, options: dict[str, Any]) -> Any:
    plugin = load(kind, name)
    if not isinstance(plugin, type):
        # an instance has its hyperparameters; a model such as 'wrn-40-4' may still be given others
        if not options:
            return plugin
        if not attrs.has(type(plugin)):
            raise InputError(f"{kind}.{name} takes no options; given {', '.join(options)}")
        return structure({**unstructure(plugin), **options}, type(plugin), f"{kind}.{name}")
    if attrs.has(plugin):
        return structure(options, plugin, f"{kind}.{name}")
    if options:
        raise InputError(f"{kind}.{name} takes no options: it is no attrs class; given {', '.join(options)}")
    try:
        return plugin()
    except Exception as error:
        raise PluginError(f"{kind}.{name} cannot be made without options, and takes none: {error!r}") from error


def _read_back(plugin: Any, where: str) -> Any:
    """The plugin as it is read back from a run's experiment.toml, which must be the same.

    Classes do not check their defaults against their annotations: where a float's default is 1, the file has 1 and 1.0
    is read back. So a run uses the plugin as it is read back from the beginning.
    """
    if any(field.name == "name" for field in attrs.fields(type(plugin))):
        raise PluginError(f"{where} has an option called 'name', which is the key of the plugin's own name; rename it")
    options = unstructure(plugin)
    try:
        restored = structure(tomllib.loads(tomli_w.dumps(options)), type(plugin), where)
    except (TypeError, ValueError) as error:
        raise PluginError(f"the options of {where} cannot be written as TOML and read back: {error}") from error
    if unstructure(restored) != options:
        raise PluginError(f"the options of {where} read back from TOML as {unstructure(restored)}; they were {options}")
    return restored
