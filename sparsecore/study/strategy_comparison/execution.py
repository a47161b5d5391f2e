"""The execution of a comparison of strategies: on each network the tuning of all arms, then the trials."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import attrs

from sparsecore.errors import SparsecoreError
from sparsecore.study.folder import StudyFolder
from sparsecore.study.pools import Pool
from sparsecore.study.scheduler import ExecutionResult, StudyCallback, execute
from sparsecore.study.strategy_comparison.definition import StrategyComparison
from sparsecore.study.strategy_comparison.folder import ComparisonFolder
from sparsecore.study.strategy_comparison.tuning import tuned_arms
from sparsecore.study.trials import Trial, trials_of


class UnequalTuningError(SparsecoreError):
    """Tuning runs are missing for another reason than that their settings do not train."""


class _StatusRecorder(StudyCallback):
    """Passes everything on to another callback, and keeps the exit statuses.

    Attributes:
        statuses: exit statuses of the trials that have ended.
    """

    def __init__(self, callback: StudyCallback) -> None:
        self.statuses: dict[Trial, int] = {}
        self._callback = callback

    def poll(self, running: Sequence[Trial]) -> None:
        """Pass on the running trials."""
        self._callback.poll(running)

    def trial_ended(self, trial: Trial, status: int) -> None:
        """Keep the exit status."""
        self.statuses[trial] = status
        self._callback.trial_ended(trial, status)


@attrs.frozen
class PhaseResult:
    """The end of one of the studies of a comparison.

    Attributes:
        folder: folder of the study.
        outcome: trials that could not be finished.
        dropped: names of the arms that cannot be tuned, because all their tuning runs failed.
        is_tuning: whether it is the study of the tuning.
    """

    folder: StudyFolder
    outcome: ExecutionResult
    dropped: tuple[str, ...] = ()
    is_tuning: bool = False

    @property
    def is_failed(self) -> bool:
        """Whether results are missing: of a trial, or of all tuning runs of an arm."""
        return bool(self.dropped) or (not self.is_tuning and bool(self.outcome.failed))


CallbackFor = Callable[[str, StudyFolder], AbstractContextManager[StudyCallback]]
"""Makes the callback of a study from its title and its folder; it is used within ``with``."""


def execute_comparison(
    comparison: StrategyComparison, folder: ComparisonFolder, pool: Pool, callback_for: CallbackFor
) -> Iterator[PhaseResult]:
    """Run all that has no result yet.

    A tuning run that fails by itself, as one does whose loss is no longer finite, counts as one whose settings are not
    the best; the trials of an arm all of whose tuning runs fail are left out.

    Args:
        comparison: the comparison.
        folder: its folder.
        pool: pool that runs the processes; it is stopped if the execution is interrupted.
        callback_for: makes the callback that receives the progress of a study.

    Yields:
        The end of each study, in the order of the networks.

    Raises:
        UnequalTuningError: tuning runs were ended by a signal or could not be started, so that some arms would be tuned
            with fewer runs than others.
    """
    for network in comparison.networks:
        trials = folder.trials(network)
        # the trials keep the settings that they were created with
        if not trials.path.exists():
            tuning = folder.tuning(network)
            if not tuning.path.exists():
                tuning.create(comparison.tuning(network))
            outcome = _executed_tuning(tuning, pool, callback_for, f"tuning of {network.name}")
            arms = tuned_arms(comparison, tuning)
            dropped = {arm.name for arm in comparison.arms} - {arm.name for arm in arms}
            yield PhaseResult(tuning, outcome, tuple(sorted(dropped)), is_tuning=True)
            if not arms:
                continue
            trials.create(comparison.trials_with(network, arms))
        else:
            trials.complete(trials.read())
        with trials.locked(), callback_for(f"trials of {network.name}", trials) as callback:
            outcome = execute(trials_of(trials.read()), trials, pool, callback)
        yield PhaseResult(trials, outcome)


def _executed_tuning(tuning: StudyFolder, pool: Pool, callback_for: CallbackFor, title: str) -> ExecutionResult:
    study = tuning.read()
    tuning.complete(study)
    with tuning.locked(), callback_for(title, tuning) as callback:
        recorder = _StatusRecorder(callback)
        outcome = execute(trials_of(study), tuning, pool, recorder)
    ended = [trial for trial in outcome.failed if recorder.statuses[trial] < 0]
    if ended:
        raise UnequalTuningError(
            f"{len(ended)} of the tuning runs did not end by themselves, the first of them {ended[0].name} (see "
            f"{tuning.log(ended[0])}); without them some strategies would be tuned with fewer runs; --resume "
            "repeats them"
        )
    return outcome
