"""The trials of a study, and the experiment of each."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs

from sparsecore.engine.randomness import LARGEST_SEED, Seed, as_seed
from sparsecore.engine.schedules import as_written
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import DEFAULTS, Tables, assemble
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.toml_files import inline_toml
from sparsecore.study.definition import Arm, Study


@attrs.frozen
class Trial:
    """One run of a study.

    Attributes:
        arm: name of the arm.
        sparsity: sparsity of the study; None for an arm that runs once.
        number: number of the trial in its cell, from 0.
        after: the trial that this one starts from.
    """

    arm: str
    sparsity: float | None
    number: int
    after: "Trial | None" = None

    @property
    def name(self) -> str:
        """The unique name of the trial, which its files have."""
        sparsity = "" if self.sparsity is None else f"-at-{self.sparsity:g}"
        return f"{self.arm}{sparsity}-trial-{self.number}"


def trials_of(study: Study) -> list[Trial]:
    """Return all trials, each after the one that it starts from; the first trial of every arm before any second.

    Args:
        study: the study. Its order is that of ``arms``, in each of them that of ``sparsities``.
    """
    return [
        _trial(study, arm, sparsity, number)
        for number in range(study.trials)
        for arm in study.arms
        for sparsity in ((None,) if arm.once else study.sparsities)
    ]


def _trial(study: Study, arm: Arm, sparsity: float | None, number: int) -> Trial:
    own = None if arm.once else sparsity
    return Trial(arm.name, own, number, _trial(study, study.arm(arm.after), own, number) if arm.after else None)


_EPOCHS = "training.epochs"


def experiment_of(study: Study, trial: Trial, runs: Path) -> Experiment:
    """Return the experiment of a trial.

    Args:
        study: the study.
        trial: the trial.
        runs: folder that has the runs by the names of their trials; the trial may start from another run there.

    Raises:
        InputError: an unknown setting or plugin, a wrong type, or a value out of range.
    """
    arm = study.arm(trial.arm)
    tables = tables_before_rescaling(study, trial, runs)
    epochs = max(1, round(as_written(arm.length) * int(study.options.get(_EPOCHS, tables["training"]["epochs"]))))
    tables = rescaled(tables, epochs)
    if arm.learning_rates:
        tables["training"]["learning_rate"] = pieces_by_epoch(arm.learning_rates, epochs)
    return Experiment.of(tables)


def tables_before_rescaling(study: Study, trial: Trial, runs: Path) -> Tables:
    """Return the tables of a trial's experiment with the number of epochs that the presets have.

    Args:
        study: the study, whose own number of epochs is left out.
        trial: the trial.
        runs: folder that has the runs by the names of their trials.

    Raises:
        InputError: an unknown setting or plugin, a wrong type, or a value out of range.
    """
    arm = study.arm(trial.arm)
    settings = [f"{name}={value}" for name, value in _settings(study, arm, trial, runs).items()]
    return Experiment.of(assemble(None, {}, arm.strategy, settings)).tables()


def model_of(options: Mapping[str, Any]) -> str:
    """Return the name of the model of a study.

    Args:
        options: the study's options by dotted names; the default model applies if they have no 'model.name'.
    """
    return str(options.get("model.name", DEFAULTS["model"]["name"]))


@attrs.frozen
class _NumericOptions:
    """The options that a study needs before there is an experiment to check them."""

    epochs: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    seed: Seed = attrs.field(default=Seed(0), converter=as_seed)


def check_numbers(options: Mapping[str, Any], seeds: int) -> None:
    """Check the numbers among the options of a study.

    Args:
        options: the study's options by dotted names.
        seeds: how many seeds its runs have, from that of the options on.

    Raises:
        InputError: epochs or seed is no such number, or the last seed would be too large.
    """
    numbers = {"epochs": options.get(_EPOCHS), "seed": options.get("seed")}
    given = structure({name: one for name, one in numbers.items() if one is not None}, _NumericOptions, "study")
    if given.seed + seeds - 1 > LARGEST_SEED:
        raise InputError(
            f"study.seed: the runs have {seeds} seeds, from {given.seed} on, and a seed is at most {LARGEST_SEED}"
        )


def check_options(study: Study) -> None:
    """Check the options of a study that its experiments would not check.

    Raises:
        InputError: as :func:`check_numbers` says, sparsity is among the options, or no arm has the strategy of an
            option.
    """
    check_numbers(study.options, study.trials)
    if "sparsity" in study.options:
        raise InputError("the sparsities of a study are given by --sparsity; given the setting sparsity")
    strategies = {name for arm in study.arms for name in arm.strategy}
    for option in study.options:
        if option.startswith("strategy.") and not any(_is_option_of(option, name) for name in strategies):
            known = ", ".join(sorted(strategies))
            raise InputError(f"no arm of the study has the strategy of {option}; they have {known}")


def _settings(study: Study, arm: Arm, trial: Trial, runs: Path) -> Mapping[str, str]:
    """Return the settings of a trial by dotted names, as text."""
    options = {name: inline_toml(value) for name, value in study.options.items() if _applies_to(name, arm)}
    options.pop(_EPOCHS, None)
    options["seed"] = str(int(study.options.get("seed", 0)) + trial.number)
    if trial.after:
        options["start.run"] = inline_toml(str(runs / trial.after.name))
    elif trial.sparsity is not None:
        options["sparsity"] = inline_toml(trial.sparsity)
    values = {"{sparsity}": trial.sparsity, "{fraction}": arm.fraction, "{model}": model_of(study.options)}
    return {**options, **{name: _filled_in(inline_toml(value), values) for name, value in arm.settings.items()}}


def _filled_in(text: str, values: Mapping[str, Any]) -> str:
    for placeholder, value in values.items():
        text = text.replace(f'"{placeholder}"', inline_toml(value)).replace(placeholder, str(value))
    return text


def _applies_to(option: str, arm: Arm) -> bool:
    """Return whether an option of the study applies to the arm: it is of no strategy, or of one that the arm has."""
    return not option.startswith("strategy.") or any(_is_option_of(option, name) for name in arm.strategy)


def _is_option_of(option: str, strategy: str) -> bool:
    return option.startswith(f"strategy.{strategy.rpartition(':')[2]}.")


def rescaled(tables: Tables, epochs: int) -> Tables:
    """Rescale an experiment to another number of epochs.

    Pieces of schedules begin, and updates end, at the same fraction of the run. Steps and epochs between updates do not
    change.

    Args:
        tables: tables of a complete experiment.
        epochs: the new number of epochs.

    Returns:
        The tables of the rescaled experiment.
    """
    training = tables["training"]
    factor = Fraction(epochs, training["epochs"])
    strategies = [_rescaled_table(table, factor) for table in tables["strategy"]]
    return {**tables, "training": {**_rescaled_table(training, factor), "epochs": epochs}, "strategy": strategies}


def pieces_by_epoch(values: Mapping[str, float], epochs: int) -> dict[str, float]:
    """Convert the pieces of a schedule from fractions of a run to epochs; of pieces at the same epoch, the last stays.

    Args:
        values: values by the fraction of the run at which each begins.
        epochs: number of epochs of the run.
    """
    return {str(round(as_written(float(fraction)) * epochs)): value for fraction, value in values.items()}


def _rescaled_table(settings: Mapping[str, Any], factor: Fraction) -> Tables:
    """Rescale every piecewise schedule and every ``until_epoch`` in the settings."""
    return {name: _rescaled_value(name, value, factor) for name, value in settings.items()}


def _rescaled_value(name: str, value: Any, factor: Fraction) -> Any:
    if name == "until_epoch":
        return round(value * factor)
    if not isinstance(value, Mapping):
        return value
    if all(key.isdecimal() for key in value):
        return {str(round(int(epoch) * factor)): number for epoch, number in value.items()}
    return _rescaled_table(value, factor)
