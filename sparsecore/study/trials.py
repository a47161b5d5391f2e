"""The runs of a study."""

from collections.abc import Iterator

import attrs

from sparsecore.study.arms import Arm, Study


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
