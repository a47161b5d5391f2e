"""Presets: tested settings for models, data sets and strategies, in TOML files next to this one.

The table ``match`` of a preset (any of model, data, strategy; a pattern or a list of them) selects the experiments that
it applies to; the rest is part of an experiment. All matching presets are merged, and the more specific ones win. A
``stack`` is the default stack for a model and a data set. Options in a table ``strategy.NAME`` apply if that strategy
is in the stack, and those in ``training.OPTIMIZER`` if that optimizer is chosen.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib.resources import files
from typing import Any

from sparsecore.experiment.experiment import OPTIMIZERS
from sparsecore.experiment.toml_files import as_list, toml_tables


def presets(model: str, data: str, strategies: Sequence[str], optimizer: str) -> list[dict[str, Any]]:
    """The matching presets, the more specific ones later, without ``match`` and the options of other optimizers.

    Args:
        model: the name of the model.
        data: the name of the data set.
        strategies: the names of the strategies in the stack.
        optimizer: the name of the optimizer.
    """
    names = {"model": {model}, "data": {data}, "strategy": set(strategies)}
    matching = [preset for preset in _all() if _matches(preset["match"], names)]
    matching.sort(key=lambda preset: len(preset["match"]))
    return [_with_optimizer(preset, optimizer) for preset in matching]


def default_stack(model: str, data: str) -> list[str] | None:
    """Return the default stack for a model and a data set.

    Args:
        model: the name of the model.
        data: the name of the data set.

    Returns:
        The names of the strategies, bottom first; None if no preset has a stack for the two.
    """
    names = {"model": {model}, "data": {data}, "strategy": set[str]()}
    stacks = [preset["stack"] for preset in _all() if "stack" in preset and _matches(preset["match"], names)]
    return stacks[-1] if stacks else None


def _all() -> Iterator[dict[str, Any]]:
    folder = files("sparsecore.experiment") / "presets"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        yield toml_tables(file.read_bytes(), file)


def _matches(match: Mapping[str, str | list[str]], names: Mapping[str, set[str]]) -> bool:
    return all(
        any(fnmatch(name, pattern) for name in names[kind] for pattern in as_list(match[kind])) for kind in match
    )


def _with_optimizer(preset: Mapping[str, Any], optimizer: str) -> dict[str, Any]:
    """The part of a preset that applies to this optimizer."""
    training: Mapping[str, Any] = preset.get("training", {})
    general = {key: value for key, value in training.items() if key not in OPTIMIZERS}
    others = {section: value for section, value in preset.items() if section not in {"match", "stack", "training"}}
    return {**others, "training": {**general, **training.get(optimizer, {})}}
