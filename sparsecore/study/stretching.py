"""An experiment that is to last longer or shorter: what is said in epochs moves along."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from sparsecore.settings import as_written

Tables = dict[str, Any]


def stretched(tables: Tables, epochs: int) -> Tables:
    """The same experiment over so many epochs: pieces of schedules begin, and updates end, at the same share of it.

    Steps and epochs between updates stay as they are.

    Args:
        tables: a complete experiment.
        epochs: of the new one.
    """
    training = tables["training"]
    factor = Fraction(epochs, training["epochs"])
    strategies = [_stretched(table, factor) for table in tables["strategy"]]
    return {**tables, "training": {**_stretched(training, factor), "epochs": epochs}, "strategy": strategies}


def by_shares(rates: Mapping[str, float], epochs: int) -> dict[str, float]:
    """Pieces that begin at shares of a run, as pieces that begin at epochs; of those that fall together, the last."""
    return {str(round(as_written(float(share)) * epochs)): rate for share, rate in rates.items()}


def _stretched(settings: Mapping[str, Any], factor: Fraction) -> Tables:
    """The settings with every piecewise schedule and every ``until_epoch`` in them stretched."""
    return {name: _value(name, value, factor) for name, value in settings.items()}


def _value(name: str, value: Any, factor: Fraction) -> Any:
    if name == "until_epoch":
        return round(value * factor)
    if not isinstance(value, Mapping):
        return value
    if all(key.isdecimal() for key in value):
        return {str(round(int(epoch) * factor)): number for epoch, number in value.items()}
    return _stretched(value, factor)
