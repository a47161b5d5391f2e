"""The experiment of each trial."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs

from sparsecore.engine.schedules import as_written
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import DEFAULTS, assemble
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.toml_files import inline_toml
from sparsecore.study.arms import Arm, Study

Tables = dict[str, Any]


def rescaled(tables: Tables, epochs: int) -> Tables:
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


def pieces_by_epoch(rates: Mapping[str, float], epochs: int) -> dict[str, float]:
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


@attrs.frozen
class Trial:
    """One run.

    Attributes:
        arm: the arm's name.
        sparsity: of the study; None for an arm that runs once.
        number: from 0.
        after: the trial that it starts from.
    """

    arm: str
    sparsity: float | None
    number: int
    after: "Trial | None" = None

    @property
    def name(self) -> str:
        """Distinct within the study; its files are named so."""
        sparsity = "" if self.sparsity is None else f"-at-{self.sparsity:g}"
        return f"{self.arm}{sparsity}-trial-{self.number}"


def trials_of(study: Study) -> list[Trial]:
    """All trials, each behind the one that it starts from; the first trial of every arm before any second."""
    return [trial for number in range(study.trials) for trial in _of_number(study, number)]


def _of_number(study: Study, number: int) -> Iterator[Trial]:
    for arm in study.arms:
        for sparsity in (None,) if arm.once else study.sparsities:
            yield _trial(study, arm, sparsity, number)


def _trial(study: Study, arm: Arm, sparsity: float | None, number: int) -> Trial:
    own = None if arm.once else sparsity
    return Trial(arm.name, own, number, _trial(study, study.arm(arm.after), own, number) if arm.after else None)


_EPOCHS = "training.epochs"


@attrs.frozen
class _Counted:
    """What a study reckons with before there is an experiment that would check it."""

    epochs: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    seed: int = attrs.field(default=0, validator=attrs.validators.ge(0))


def experiment_of(study: Study, trial: Trial, runs: Path) -> Experiment:
    """What a trial is to do.

    Args:
        study: the trial's.
        trial: one of it.
        runs: where runs lie, by their trials' names; a trial may start from another one there.

    Raises:
        InputError: an unknown setting or plugin, a wrong type, a value out of range.
    """
    arm = study.arm(trial.arm)
    settings = [f"{name}={value}" for name, value in _settings(study, arm, trial, runs).items()]
    tables = Experiment.of(assemble(None, {}, arm.strategy, settings)).tables()
    epochs = _epochs(study, arm, tables)
    tables = rescaled(tables, epochs)
    if arm.learning_rates:
        tables["training"]["learning_rate"] = pieces_by_epoch(arm.learning_rates, epochs)
    return Experiment.of(tables)


def model_of(options: Mapping[str, Any]) -> str:
    """The name of the model that a study with these options is about."""
    return str(options.get("model.name", DEFAULTS["model"]["name"]))


def check_options(study: Study) -> None:
    """Raise an :class:`InputError` where options are no such numbers, or concern no arm."""
    counted = {"epochs": study.options.get(_EPOCHS), "seed": study.options.get("seed")}
    structure({name: given for name, given in counted.items() if given is not None}, _Counted, "study")
    if "sparsity" in study.options:
        raise InputError("a study has a row of sparsities, as --sparsity gives them; given the setting sparsity")
    stacks = {name for arm in study.arms for name in arm.strategy}
    for option in study.options:
        if option.startswith("strategy.") and not any(_is_of(option, name) for name in stacks):
            raise InputError(f"no arm of the study has the strategy of {option}; they have {', '.join(sorted(stacks))}")


def _settings(study: Study, arm: Arm, trial: Trial, runs: Path) -> Mapping[str, str]:
    """By dotted names, as texts."""
    options = {name: inline_toml(value) for name, value in study.options.items() if _is_for(name, arm)}
    options.pop(_EPOCHS, None)
    options["seed"] = str(int(study.options.get("seed", 0)) + trial.number)
    if trial.after:
        options["start.run"] = inline_toml(str(runs / trial.after.name))
    elif trial.sparsity is not None:
        options["sparsity"] = inline_toml(trial.sparsity)
    known = {
        "{sparsity}": trial.sparsity,
        "{fraction}": arm.fraction,
        "{model}": model_of(study.options),
    }
    return {**options, **{name: _filled(inline_toml(value), known) for name, value in arm.settings.items()}}


def _filled(text: str, known: Mapping[str, Any]) -> str:
    for word, value in known.items():
        text = text.replace(f'"{word}"', inline_toml(value)).replace(word, str(value))
    return text


def _epochs(study: Study, arm: Arm, tables: Tables) -> int:
    return max(1, round(arm.length * int(study.options.get(_EPOCHS, tables["training"]["epochs"]))))


def _is_for(option: str, arm: Arm) -> bool:
    """Whether an option of the study concerns the arm: one of a strategy that it has, or of none."""
    return not option.startswith("strategy.") or any(_is_of(option, name) for name in arm.strategy)


def _is_of(option: str, strategy: str) -> bool:
    return option.startswith(f"strategy.{strategy.rpartition(':')[2]}.")
