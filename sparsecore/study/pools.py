"""Pools of worker processes that run the trials of a study: on this machine, on a Ray cluster or through Slurm."""

import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import attrs

from sparsecore.errors import InputError, SparsecoreError, unknown


@attrs.frozen
class Job:
    """A process to run.

    Attributes:
        name: name of the trial.
        command: the program and its arguments.
        log: file that the process's output is appended to.
    """

    name: str
    command: tuple[str, ...]
    log: Path


def _check_jobs(_: object, __: object, jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is at least 1; given {jobs}")


@attrs.frozen
class PoolOptions:
    """Options of a pool, from ``--jobs`` and ``--on-set``.

    Attributes:
        jobs: number of trials that run at the same time; None lets the pool choose.
        options: further options of the pool, by name, as text.
    """

    jobs: int | None = attrs.field(default=None, validator=_check_jobs)
    options: Mapping[str, str] = attrs.field(factory=dict)


class Pool(Protocol):
    """Runs jobs as processes, several at a time, in the order in which they are submitted."""

    @property
    def jobs(self) -> int:
        """The number of jobs that run at the same time, as far as it is known."""
        ...

    def submit(self, job: Job) -> "Future[int]":
        """Schedule a job.

        Args:
            job: the process to run.

        Returns:
            A future of the exit status of the job's process; negative if a signal ended it.
        """
        ...

    def stop(self) -> None:
        """End all running jobs and start no others; the runs keep their checkpoints."""
        ...


LOCAL = "local"
"""The pool of processes on this machine."""

_POOLS: Mapping[str, str] = MappingProxyType(
    {
        LOCAL: "sparsecore.study.pools:local_pool",
        "ray": "sparsecore.study.ray_pool:ray_pool",
        "slurm": "sparsecore.study.slurm_pool:slurm_pool",
    }
)


def create_pool(name: str, options: PoolOptions) -> Pool:
    """Create the pool of this name.

    Args:
        name: 'local', 'ray' or 'slurm'.
        options: options of the pool.

    Raises:
        InputError: the pool does not exist or refuses its options.
        MissingPackageError: a package that the pool needs is not installed.
    """
    if name not in _POOLS:
        raise InputError(unknown("pool", name, _POOLS))
    module, _, function = _POOLS[name].partition(":")
    create: Callable[[PoolOptions], Pool] = getattr(import_module(module), function)
    return create(options)


class JobLostError(SparsecoreError):
    """A job could not be started, or ended without an exit status."""


class RunningJob(Protocol):
    """A job that a pool has started."""

    def wait(self) -> int:
        """Wait for the job to end.

        Returns:
            Its exit status; negative if a signal ended it.

        Raises:
            JobLostError: the job has no exit status.
        """
        ...

    def terminate(self) -> None:
        """End the job early; a :meth:`wait` in another thread returns soon after."""
        ...


class ThreadedPool:
    """A pool that starts jobs with a function and waits for each of them in a thread.

    Attributes:
        jobs: number of jobs that run at the same time.
    """

    def __init__(self, jobs: int, start: Callable[[Job], RunningJob]) -> None:
        """Create the pool.

        Args:
            jobs: number of jobs that run at the same time.
            start: starts a job; may raise a :class:`JobLostError`.
        """
        self.jobs = jobs
        self._start = start
        self._threads = ThreadPoolExecutor(jobs)
        self._lock = threading.Lock()
        self._running: set[RunningJob] = set()
        self._is_stopped = False

    def submit(self, job: Job) -> "Future[int]":
        """Schedule a job; jobs start in the order in which they are submitted.

        Args:
            job: the process to run.

        Returns:
            A future of its exit status; -1 if the job was lost, and then its log says why.
        """
        return self._threads.submit(self._run, job)

    def stop(self) -> None:
        """End all running jobs, and return when their threads have ended."""
        with self._lock:
            self._is_stopped = True
            running = tuple(self._running)
        for job in running:
            job.terminate()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> int:
        try:
            status = self._start_and_wait(job)
        except (JobLostError, OSError) as error:
            _append_to_log(job, str(error))
            return -1
        if status < 0 and not self._is_stopped:
            _append_to_log(job, f"signal {-status} ended this process; signal 9 often means that memory ran out")
        return status

    def _start_and_wait(self, job: Job) -> int:
        with self._lock:
            if self._is_stopped:
                return -1
            running = self._start(job)
            self._running.add(running)
        try:
            return running.wait()
        finally:
            with self._lock:
                self._running.discard(running)


def _append_to_log(job: Job, sentence: str) -> None:
    with suppress(OSError), job.log.open("a", encoding="utf-8") as log:  # the disk may be what failed the job
        log.write(f"{sentence}\n")


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def local_pool(options: PoolOptions) -> Pool:
    """Create a pool of processes on this machine, which share its cores evenly as threads.

    Args:
        options: ``jobs`` defaults to the number of cores; there are no further options.

    Raises:
        InputError: an option is given.
    """
    if options.options:
        raise InputError(f"the local pool has no options; given {', '.join(options.options)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = options.jobs or cores
    threads = str(max(1, cores // jobs))
    # thread counts that the user has set take precedence
    return ThreadedPool(jobs, partial(_start_process, {**dict.fromkeys(_THREADS, threads), **os.environ}))


@attrs.frozen(eq=False)
class _RunningProcess(RunningJob):
    process: "subprocess.Popen[bytes]"

    def wait(self) -> int:
        with self.process:  # closes its pipe in the end
            return self.process.wait()

    def terminate(self) -> None:
        self.process.terminate()


def _start_process(environment: Mapping[str, str], job: Job) -> _RunningProcess:
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the study, which then ends its trials
        )
    return _RunningProcess(process)


def run_job(job: Job, folder: Path) -> int:
    """Run a job on this machine and wait for it.

    The job's process ends when the calling process does, however that ends; see :mod:`sparsecore.cli.worker`.

    Args:
        job: the job; its output is appended to its log.
        folder: working directory, that in which the study was started, because paths of an experiment may be relative.

    Returns:
        The exit status; negative if a signal ended the process.
    """
    with (
        job.log.open("ab") as log,
        subprocess.Popen(
            job.command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Slurm signals all processes, and only the one that handles it should receive it
        ) as process,
    ):
        try:
            return process.wait()
        finally:
            process.terminate()
