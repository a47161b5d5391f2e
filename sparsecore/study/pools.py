"""Where the trials of a study run: processes of this machine, or of others."""

import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import attrs

from sparsecore.errors import InputError, unknown


@attrs.frozen
class Job:
    """A process to run.

    Attributes:
        name: of the trial.
        command: the program and its arguments.
        log: where its output goes.
    """

    name: str
    command: tuple[str, ...]
    log: Path


def _check_jobs(_: object, __: object, jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise InputError(f"at least one trial runs at a time; given --jobs {jobs}")


@attrs.frozen
class PoolOptions:
    """What a pool may use.

    Attributes:
        jobs: trials at the same time; what the pool thinks best, where it is None.
        options: of the pool, by name.
    """

    jobs: int | None = attrs.field(default=None, validator=_check_jobs)
    options: Mapping[str, str] = attrs.field(factory=dict)


class Pool(Protocol):
    """Processes that run jobs, some at a time, in the order in which they are given."""

    @property
    def jobs(self) -> int:
        """How many run at the same time, as far as it is known."""
        ...

    def submit(self, job: Job) -> "Future[int]":
        """The exit status of the job's process, some day; negative for a signal."""
        ...

    def stop(self) -> None:
        """End what is running, start nothing more; runs keep their checkpoints."""
        ...


_POOLS: Mapping[str, str] = MappingProxyType(
    {
        "local": "sparsecore.study.local:local_pool",
        "ray": "sparsecore.study.on_ray:ray_pool",
        "slurm": "sparsecore.study.on_slurm:slurm_pool",
    }
)


def create_pool(name: str, means: PoolOptions) -> Pool:
    """The pool of this name.

    Raises:
        InputError: there is none, what it needs is not installed, or it refuses its means.
    """
    if name not in _POOLS:
        raise InputError(unknown("place to run on", name, _POOLS))
    module, _, maker = _POOLS[name].partition(":")
    make: Callable[[PoolOptions], Pool] = getattr(import_module(module), maker)
    return make(means)


def run_job(job: Job, folder: Path) -> int:
    """Run the job on this machine: its exit status, negative for a signal.

    It ends with the process that calls this, however that ends; see :mod:`sparsecore.cli.worker`.

    Args:
        job: its log is appended to.
        folder: to run in, the one in which the study was called; the paths of an experiment may be relative to it.
    """
    with (
        job.log.open("ab") as log,
        subprocess.Popen(
            job.command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a signal that Slurm sends to all processes is for the one that knows what to do
        ) as process,
    ):
        try:
            return process.wait()
        finally:
            process.terminate()
