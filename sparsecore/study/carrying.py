"""Carrying out a study: every trial once, each after the one that it starts from; one that fails stops no other."""

import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol

import attrs

from sparsecore.study.folder import StudyFolder
from sparsecore.study.pools import Job, Pool
from sparsecore.study.trials import Trial

_SECONDS_BETWEEN_LOOKS = 0.5


class Onlooker(Protocol):
    """Somebody who looks on while a study is carried out."""

    def look(self, running: Sequence[Trial]) -> None:
        """Trials are running, or wait for their turn in the pool; called a few times a second."""
        ...

    def ended(self, trial: Trial, status: int) -> None:
        """The trial's process has ended; 0 is success."""
        ...


@attrs.frozen
class Outcome:
    """What became of the trials.

    Attributes:
        failed: those whose process failed.
        left_out: those that start from one that failed, directly or not.
    """

    failed: tuple[Trial, ...]
    left_out: tuple[Trial, ...]


def carry_out(trials: Sequence[Trial], folder: StudyFolder, pool: Pool, onlooker: Onlooker) -> Outcome:
    """Run what is not finished.

    Args:
        trials: each behind the one that it starts from.
        folder: the study's.
        pool: runs the processes; it is stopped where this is interrupted.
        onlooker: is told.
    """
    waiting = [trial for trial in trials if folder.result(trial) is None]
    running: dict[Future[int], Trial] = {}
    failed: list[Trial] = []
    left_out: list[Trial] = []
    try:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            ready = [trial for trial in waiting if trial.after not in {*unfinished, *failed, *left_out}]
            lost = [trial for trial in waiting if trial.after in {*failed, *left_out}]
            left_out += lost
            waiting = [trial for trial in waiting if trial not in {*ready, *lost}]
            running |= {pool.submit(_job(trial, folder)): trial for trial in ready}
            onlooker.look(tuple(running.values()))
            for future in wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                trial, status = running.pop(future), future.result()
                if status or folder.result(trial) is None:
                    failed.append(trial)
                onlooker.ended(trial, status)
    except BaseException:
        pool.stop()
        raise
    # in the order of the trials, not in that in which their processes happened to end
    return Outcome(*(tuple(trial for trial in trials if trial in ended) for ended in (failed, left_out)))


def _job(trial: Trial, folder: StudyFolder) -> Job:
    train = (sys.executable, "-m", "sparsecore.study.worker", "train", str(folder.experiment(trial)))
    # what was begun before is gone on with; what was not begins
    return Job(trial.name, (*train, "--out", str(folder.run(trial).path), "--resume", "--json"), folder.log(trial))
