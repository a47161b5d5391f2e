"""The stack of strategies that a user of ``sparsify`` names, and whether their schedules have what they need."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.engine.schedules import Cosine, Every, Piecewise
from sparsecore.errors import InputError
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.experiment.presets import presets

_FALLBACK_SCHEDULE = {"steps": 100}
"""The schedule of a strategy whose own needs the number of steps of the run or of an epoch, which is unknown."""


def stack_of(strategy: Any, *, has_end: bool, has_epochs: bool) -> dict[str, object]:
    """Return the stacked strategies by name, bottom first.

    Args:
        strategy: the name of a plugin, an instance, or several of these.
        has_end: whether the number of steps of the run is known.
        has_epochs: whether the number of steps of an epoch is known.

    Raises:
        InputError: a plugin cannot be found, is stacked twice, or its schedule needs what is not known.
    """
    given = list(strategy) if isinstance(strategy, list | tuple) else [strategy]
    if not given:
        raise InputError("no strategy was given; 'static' is the one that never reallocates")
    stack: dict[str, object] = {}
    for one in given:
        name = one if isinstance(one, str) else type(one).__name__
        if name in stack:
            raise InputError(f"the strategy {name} is stacked twice")
        stack[name] = _by_name(one, has_end, has_epochs) if isinstance(one, str) else one
        _check_schedules(name, stack[name], has_end, has_epochs)
    return stack


def _by_name(name: str, has_end: bool, has_epochs: bool) -> object:
    options: dict[str, Any] = {}
    for preset in presets("", "", [name], ""):
        options |= preset.get("strategy", {}).get(name, {})
    plugin = PluginChoice.of("strategy", {"name": name, **options}).plugin
    schedule = getattr(plugin, "schedule", None)
    if (not has_end and _any(schedule, _NEEDS_END)) or (not has_epochs and _any(schedule, _COUNTS_EPOCHS)):
        plugin = PluginChoice.of("strategy", {"name": name, **options, "schedule": _FALLBACK_SCHEDULE}).plugin
    return plugin


def _check_schedules(name: str, strategy: object, has_end: bool, has_epochs: bool) -> None:
    if not has_end and _any(strategy, _NEEDS_END):
        raise InputError(f"a schedule of the strategy {name} needs the end of the run; give total_steps=")
    if not has_epochs and _any(strategy, _COUNTS_EPOCHS):
        raise InputError(
            f"a schedule of the strategy {name} counts epochs; give steps_per_epoch=, or a schedule in steps "
            "such as Every(steps=100)"
        )


_Needs = Mapping[type, Callable[[Any], bool]]

_NEEDS_END: _Needs = MappingProxyType(
    {Cosine: lambda _: True, Every: lambda every: every.until is not None or every.times is not None}
)
_COUNTS_EPOCHS: _Needs = MappingProxyType(
    {
        Piecewise: lambda piecewise: len(piecewise.pieces) > 1,
        Every: lambda every: every.epochs is not None or every.until_epoch is not None,
    }
)


def _any(value: object, needs: _Needs) -> bool:
    return any(needs[type(part)](part) for part in _parts(value) if type(part) in needs)


def _parts(value: object) -> Iterator[object]:
    """The value itself, and all values in its fields."""
    yield value
    kind = type(value)
    if attrs.has(kind):
        for field in attrs.fields(kind):
            yield from _parts(getattr(value, field.name))
