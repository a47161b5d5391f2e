"""What a study has come to so far: the trials of each arm at each sparsity, together."""

from collections.abc import Sequence
from statistics import fmean, stdev

import attrs

from sparsecore.study.arms import Arm, Study
from sparsecore.study.folder import StudyFolder
from sparsecore.study.trials import trials_of


@attrs.frozen
class Cell:
    """The finished trials of an arm at a sparsity.

    Attributes:
        arm: the arm.
        sparsity: of the study; None for an arm that runs once.
        accuracies: test accuracies after the last epoch, 0..1, in the order of the trials.
        wanted: how many trials there are to be.
    """

    arm: Arm
    sparsity: float | None
    accuracies: tuple[float, ...]
    wanted: int

    @property
    def mean(self) -> float | None:
        """Their mean; None where there are none."""
        return fmean(self.accuracies) if self.accuracies else None

    @property
    def std(self) -> float | None:
        """The standard deviation of the sample (n - 1); None of fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def cells(study: Study, folder: StudyFolder) -> list[Cell]:
    """In the order of arms, then of sparsities."""
    found: dict[tuple[str, float | None], list[float]] = {}
    for trial in trials_of(study):
        accuracies = found.setdefault((trial.arm, trial.sparsity), [])
        result = folder.result(trial)
        if result is not None:
            accuracies.append(float(result["test_accuracy"]))
    return [
        Cell(arm, sparsity, tuple(found[arm.name, sparsity]), study.trials)
        for arm in study.arms
        for sparsity in _sparsities(study, arm)
    ]


def _sparsities(study: Study, arm: Arm) -> Sequence[float | None]:
    return (None,) if arm.once else study.sparsities
