"""Settings that are known to serve a model on a data set: TOML files beside this one.

A preset says what it is for in its table ``match`` (any of model, data, strategy; a pattern or a list of them) and is
otherwise part of an experiment. All that match are laid over one another, the more particular ones on top. A ``stack``
is what a model and a data set are trained with where no strategy is asked for. Options in a table ``strategy.NAME``
apply where that strategy is in the stack, and those in ``training.OPTIMIZER`` where that optimizer is chosen.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib.resources import files
from typing import Any

from sparsecore.experiment.experiment import OPTIMIZERS
from sparsecore.experiment.toml_files import as_list, toml_tables


def presets(model: str, data: str, strategies: Sequence[str], optimizer: str) -> list[dict[str, Any]]:
    """The presets for these names, the more particular later, without their ``match`` and without other optimizers."""
    names = {"model": {model}, "data": {data}, "strategy": set(strategies)}
    matching = [preset for preset in _all() if _matches(preset["match"], names)]
    matching.sort(key=lambda preset: len(preset["match"]))
    return [_with_optimizer(preset, optimizer) for preset in matching]


def default_stack(model: str, data: str) -> list[str] | None:
    """The strategies where none is asked for; None where no preset has a word to say."""
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
    """What an experiment with this optimizer takes from the preset."""
    training: Mapping[str, Any] = preset.get("training", {})
    general = {key: value for key, value in training.items() if key not in OPTIMIZERS}
    others = {section: value for section, value in preset.items() if section not in {"match", "stack", "training"}}
    return {**others, "training": {**general, **training.get(optimizer, {})}}
