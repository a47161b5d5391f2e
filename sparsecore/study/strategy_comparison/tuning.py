"""The tuning of each arm of a comparison: which of its settings are the best on held-out images."""

from collections.abc import Mapping
from typing import Any

import attrs

from sparsecore.study.definition import Arm
from sparsecore.study.folder import StudyFolder
from sparsecore.study.strategy_comparison.definition import Contender, StrategyComparison, tuning_arm_name
from sparsecore.study.trials import trials_of


@attrs.frozen
class TuningRun:
    """A run of the tuning.

    Attributes:
        settings: the settings in which it differs from the presets, by dotted names.
        accuracy: accuracy on the held-out images after the last epoch, in [0, 1]; None without a result.
        loss: mean cross-entropy on them, in nats; None without a result.
    """

    settings: Mapping[str, Any]
    accuracy: float | None
    loss: float | None


def tuning_runs(comparison: StrategyComparison, contender: Contender, tuning: StudyFolder) -> list[TuningRun]:
    """Read the tuning runs of an arm, in their order.

    Args:
        comparison: the comparison.
        contender: one of its arms.
        tuning: folder of the study of the tuning.
    """
    study = tuning.read()
    trials = {trial.arm: trial for trial in trials_of(study)}
    found = []
    for number in range(comparison.tuning_runs):
        arm = study.arm(tuning_arm_name(contender.name, number))
        result = tuning.result(trials[arm.name])
        settings = {name: value for name, value in arm.settings.items() if name != "sparsity"}
        numbers = (None, None) if result is None else (result.test_accuracy, result.test_loss)
        found.append(TuningRun(settings, *numbers))
    return found


def best_run(runs: list[TuningRun]) -> TuningRun | None:
    """Return the run with the highest accuracy; of several the one with the lowest loss, then the first.

    Args:
        runs: runs of one arm.

    Returns:
        The run; None if none has a result.
    """
    finished = [run for run in runs if run.accuracy is not None]
    return max(finished, key=lambda run: (run.accuracy, -(run.loss or 0.0)), default=None)


def tuned_arms(comparison: StrategyComparison, tuning: StudyFolder) -> list[Arm]:
    """Return the arms of the trials, each with its best settings.

    Args:
        comparison: the comparison.
        tuning: folder of the study of the tuning.

    Returns:
        The arms in the order of the comparison, without those of which every tuning run failed.
    """
    best = {contender: best_run(tuning_runs(comparison, contender, tuning)) for contender in comparison.arms}
    return [contender.arm(run.settings) for contender, run in best.items() if run is not None]
