"""The scheduler of a study: runs every unfinished trial once, in order, after the trial that it starts from."""

import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from statistics import fmean

import attrs

from sparsecore.study.folder import StudyFolder
from sparsecore.study.pools import Job, Pool
from sparsecore.study.trials import Trial

_POLL_SECONDS = 0.5


class StudyCallback:
    """Callback of a study that is being executed; each method does nothing by default."""

    def poll(self, running: Sequence[Trial]) -> None:
        """Called a few times a second while trials run.

        Args:
            running: the trials that run.
        """

    def trial_ended(self, trial: Trial, status: int) -> None:
        """Called when a trial's process has ended.

        Args:
            trial: the trial; it has a result only if it has trained to its end.
            status: the exit status of its process; 0 is success, and a negative one a signal.
        """


@attrs.frozen
class ExecutionResult:
    """The trials that an execution of a study could not finish, in the order of the study.

    Attributes:
        failed: trials whose process failed.
        skipped: trials that start from a failed one, directly or not.
    """

    failed: tuple[Trial, ...] = ()
    skipped: tuple[Trial, ...] = ()


def execute(trials: Sequence[Trial], folder: StudyFolder, pool: Pool, callback: StudyCallback) -> ExecutionResult:
    """Run all trials that have no result yet. A trial that fails does not stop the others.

    The first trial that can start is always the next one, so that a study that is looked at or stopped early has the
    same trials of all arms, those included that start from others.

    Args:
        trials: trials of the study, each after the one that it starts from.
        folder: folder of the study.
        pool: pool that runs the processes; it is stopped if the execution is interrupted.
        callback: receives progress.

    Returns:
        The trials that failed or were skipped.
    """
    waiting = [trial for trial in trials if folder.result(trial) is None]
    running: dict[Future[int], Trial] = {}
    failed: list[Trial] = []
    skipped: list[Trial] = []
    try:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            startable = [trial for trial in waiting if trial.after not in {*unfinished, *failed, *skipped}]
            # what waits in the pool would come before a trial that can start by then
            ready = startable[: max(0, pool.jobs - len(running))]
            impossible = [trial for trial in waiting if trial.after in {*failed, *skipped}]
            skipped += impossible
            waiting = [trial for trial in waiting if trial not in {*ready, *impossible}]
            running |= {pool.submit(_job(trial, folder)): trial for trial in ready}
            callback.poll(tuple(running.values()))
            for future in wait(running, _POLL_SECONDS, FIRST_COMPLETED).done:
                trial, status = running.pop(future), future.result()
                if status or folder.result(trial) is None:
                    failed.append(trial)
                callback.trial_ended(trial, status)
    except BaseException:
        pool.stop()
        raise
    # in the order of the trials, not in that in which their processes happened to end
    return ExecutionResult(*(tuple(trial for trial in trials if trial in ended) for ended in (failed, skipped)))


def _job(trial: Trial, folder: StudyFolder) -> Job:
    train = (sys.executable, "-m", "sparsecore.cli.worker", "train", str(folder.experiment(trial)))
    # --resume continues a run that has begun, and begins one that has not
    return Job(trial.name, (*train, "--out", str(folder.run(trial).path), "--resume", "--json"), folder.log(trial))


def seconds_left(trials: Sequence[Trial], folder: StudyFolder, jobs: int) -> float | None:
    """Estimate how long the unfinished trials will take.

    An epoch is estimated to take as long as the mean one of the same arm's finished trials; of its trials that have
    begun, if none is finished; of all arms, if none of its own has begun.

    Args:
        trials: trials of the study.
        folder: folder of the study.
        jobs: number of trials that run at the same time.

    Returns:
        Seconds of wall time; None if no epoch has finished yet.
    """
    begun: dict[str, list[float]] = {}
    finished: dict[str, list[float]] = {}
    left: list[tuple[str, int]] = []
    for trial in trials:
        done, epochs = folder.epochs(trial)
        result = folder.result(trial)
        if result is None:
            left.append((trial.arm, epochs - done))
            if done:
                begun.setdefault(trial.arm, []).append(folder.effort(trial).seconds / done)
        else:
            finished.setdefault(trial.arm, []).append(result.seconds / epochs)
    known = {**begun, **finished}
    if not known:
        return None
    mean = fmean(seconds for arm in known.values() for seconds in arm)
    return sum(epochs * fmean(known.get(arm, [mean])) for arm, epochs in left) / min(jobs, max(1, len(left)))
