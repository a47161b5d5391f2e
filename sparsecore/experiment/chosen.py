"""A plugin together with its hyperparameters, as an experiment names it."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.structure import structure, unstructure
from sparsecore.plugins import load


@attrs.frozen(eq=False)
class Chosen:
    """A plugin with its hyperparameters.

    Attributes:
        name: what selected it.
        plugin: the instance.
    """

    name: str
    plugin: Any

    @classmethod
    def of(cls, kind: str, table: Mapping[str, Any]) -> "Chosen":
        """The plugin that ``table['name']`` selects, with the rest of the table for its hyperparameters."""
        name = table.get("name")
        if not isinstance(name, str):
            raise InputError(f"the table of a {kind} needs a name; given {dict(table)}")
        return cls(name, _instance(kind, name, {key: value for key, value in table.items() if key != "name"}))

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
    return plugin()
