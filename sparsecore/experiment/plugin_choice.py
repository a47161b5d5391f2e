"""A plugin together with its hyperparameters, as an experiment names it."""

import tomllib
from collections.abc import Mapping
from typing import Any

import attrs
import tomli_w

from sparsecore.errors import InputError, PluginError
from sparsecore.experiment.conversion import structure, unstructure
from sparsecore.plugins.discovery import guard_plugin_code, has_methods, load, load_object


@attrs.frozen(eq=False)
class PluginChoice:
    """A plugin with its hyperparameters.

    Attributes:
        name: the name that selected it.
        plugin: the instance.
        given: the options that were given to an object which is no plugin of sparsecore, and which the backend has
            wrapped; None for plugins.
    """

    name: str
    plugin: Any
    given: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, kind: str, table: Mapping[str, Any], backend: Any = None) -> "PluginChoice":
        """Load the plugin named ``table['name']``, with the rest of the table as its hyperparameters.

        Args:
            kind: model, dataset, backend, strategy or observer.
            table: the name and the hyperparameters.
            backend: the backend that is to use it; one with a method ``foreign`` may wrap what is no plugin, such as
                a module of PyTorch.

        Raises:
            InputError: there is no such plugin, or it does not have such hyperparameters.
            PluginError: the plugin is broken.
        """
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise InputError(f"a {kind} is given as a table with a name; given {table!r}")
        name: str = table["name"]
        options = {key: value for key, value in table.items() if key != "name"}
        with guard_plugin_code(kind, name):
            wrap = getattr(backend, "foreign", None)
            foreign = None if wrap is None else wrap(kind, name, options)
            if foreign is not None:
                return cls(name, foreign, options)
            if wrap is None:
                _refuse_foreign(kind, name)
            plugin = _instance(kind, name, options)
            return cls(name, _read_back(plugin, f"{kind}.{name}") if attrs.has(type(plugin)) else plugin)

    def table(self) -> dict[str, Any]:
        """The table that :meth:`of` reads, hyperparameters left at their defaults included."""
        if self.given is not None:
            return {"name": self.name, **self.given}
        return {"name": self.name, **(unstructure(self.plugin) if attrs.has(type(self.plugin)) else {})}


_LIBRARIES = frozenset({"torchvision", "timm"})
"""Packages whose models and data sets a backend may take by name; they are not imported to refuse them."""


def _refuse_foreign(kind: str, name: str) -> None:
    """Raise a :class:`PluginError` for a model or a data set of PyTorch, where the backend does not take it."""
    if kind not in ("model", "dataset") or ":" not in name:
        return
    chosen = None if name.partition(":")[0] in _LIBRARIES else load_object(kind, name)
    if chosen is None or _is_of_torch(chosen) or not has_methods(kind, chosen):
        raise PluginError(
            f"{name!r} is no {kind} that is written for every backend; what makes a module or a data set of PyTorch "
            "needs --backend torch"
        )


def _is_of_torch(chosen: Any) -> bool:
    """Whether an object is a module or a data set of PyTorch, or a class of them; PyTorch is not imported."""
    kind = chosen if isinstance(chosen, type) else type(chosen)
    return any(base.__module__.startswith("torch.") for base in kind.__mro__)


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
