"""Jobs side by side, some at a time: what is the same wherever they run."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from sparsecore.errors import SparsecoreError
from sparsecore.study.pools import Job


class LostError(SparsecoreError):
    """A job that could not be started, or that did not live to tell its exit status."""


class Started(Protocol):
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


class SideBySide:
    """A :class:`sparsecore.study.pools.Pool` of jobs that are started by a function; a thread waits for each of them.

    Attributes:
        jobs: how many run at the same time.
    """

    def __init__(self, jobs: int, start: Callable[[Job], Started]) -> None:
        """So many at a time; ``start`` may raise a :class:`LostError`."""
        self.jobs = jobs
        self._start = start
        self._threads = ThreadPoolExecutor(jobs)
        self._lock = threading.Lock()
        self._running: set[Started] = set()
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
        except (LostError, OSError) as error:
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
