"""Carrying out a study: every trial once, each after the one that it starts from; one that fails stops no other."""

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from statistics import fmean
from typing import Protocol

import attrs

from sparsecore.errors import SparsecoreError
from sparsecore.study.experiments import Trial
from sparsecore.study.folder import StudyFolder
from sparsecore.study.pools import Job, Pool


class JobLostError(SparsecoreError):
    """A job that could not be started, or that did not live to tell its exit status."""


class RunningJob(Protocol):
    """A job that has been started somewhere."""

    def wait(self) -> int:
        """The exit status, as soon as the job has ended.

        Raises:
            LostError: there is none.
        """
        ...

    def end(self) -> None:
        """End the job early; a :meth:`wait` in another thread comes back soon after."""
        ...


class ThreadedPool:
    """A :class:`sparsecore.study.pools.Pool` of jobs that are started by a function; a thread waits for each of them.

    Attributes:
        jobs: how many run at the same time.
    """

    def __init__(self, jobs: int, start: Callable[[Job], RunningJob]) -> None:
        """So many at a time; ``start`` may raise a :class:`JobLostError`."""
        self.jobs = jobs
        self._start = start
        self._threads = ThreadPoolExecutor(jobs)
        self._lock = threading.Lock()
        self._running: set[RunningJob] = set()
        self._is_stopped = False

    def submit(self, job: Job) -> "Future[int]":
        """See :class:`sparsecore.study.pools.Pool`."""
        return self._threads.submit(self._run, job)

    def stop(self) -> None:
        """See :class:`sparsecore.study.pools.Pool`."""
        with self._lock:
            self._is_stopped = True
            running = tuple(self._running)
        for started in running:
            started.end()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> int:
        """The exit status; -1 where there is none. The job's log says why, and what signal has ended it."""
        try:
            status = self._until_its_end(job)
        except (JobLostError, OSError) as error:
            _note(job, str(error))
            return -1
        if status < 0 and not self._is_stopped:
            _note(job, f"this process was ended by signal {-status}; by 9 where the machine ran out of memory")
        return status

    def _until_its_end(self, job: Job) -> int:
        with self._lock:
            if self._is_stopped:
                return -1
            started = self._start(job)
            self._running.add(started)
        try:
            return started.wait()
        finally:
            with self._lock:
                self._running.discard(started)


def _note(job: Job, sentence: str) -> None:
    with suppress(OSError), job.log.open("a", encoding="utf-8") as log:  # the disk may be what failed the job
        log.write(f"{sentence}\n")


def seconds_left(trials: Sequence[Trial], folder: StudyFolder, jobs: int) -> float | None:
    """About how many seconds of waiting are left; None while there is nothing to go by.

    An epoch takes as long as the mean one of the same arm's finished trials, or of those that were begun where none is
    finished, or of all arms where none of its own was begun.
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
                begun.setdefault(trial.arm, []).append(folder.seconds(trial) / done)
        else:
            finished.setdefault(trial.arm, []).append(float(result["seconds"]) / epochs)
    known = {**begun, **finished}
    if not known:
        return None
    mean = fmean(seconds for arm in known.values() for seconds in arm)
    return sum(epochs * fmean(known.get(arm, [mean])) for arm, epochs in left) / min(jobs, max(1, len(left)))


_SECONDS_BETWEEN_LOOKS = 0.5


class StudyCallback(Protocol):
    """Somebody who looks on while a study is carried out."""

    def poll(self, running: Sequence[Trial]) -> None:
        """Trials are running, or wait for their turn in the pool; called a few times a second."""
        ...

    def trial_ended(self, trial: Trial, status: int) -> None:
        """The trial's process has ended; 0 is success."""
        ...


@attrs.frozen
class ExecutionResult:
    """What became of the trials.

    Attributes:
        failed: those whose process failed.
        skipped: those that start from one that failed, directly or not.
    """

    failed: tuple[Trial, ...]
    skipped: tuple[Trial, ...]


def execute(trials: Sequence[Trial], folder: StudyFolder, pool: Pool, callback: StudyCallback) -> ExecutionResult:
    """Run what is not finished.

    Args:
        trials: each behind the one that it starts from.
        folder: the study's.
        pool: runs the processes; it is stopped where this is interrupted.
        callback: is told.
    """
    waiting = [trial for trial in trials if folder.result(trial) is None]
    running: dict[Future[int], Trial] = {}
    failed: list[Trial] = []
    skipped: list[Trial] = []
    try:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            ready = [trial for trial in waiting if trial.after not in {*unfinished, *failed, *skipped}]
            lost = [trial for trial in waiting if trial.after in {*failed, *skipped}]
            skipped += lost
            waiting = [trial for trial in waiting if trial not in {*ready, *lost}]
            running |= {pool.submit(_job(trial, folder)): trial for trial in ready}
            callback.poll(tuple(running.values()))
            for future in wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
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
    # what was begun before is gone on with; what was not begins
    return Job(trial.name, (*train, "--out", str(folder.run(trial).path), "--resume", "--json"), folder.log(trial))
