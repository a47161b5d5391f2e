"""The pool that runs trials as jobs of a Slurm cluster, through submitit."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.toml_files import toml_value
from sparsecore.extras import require
from sparsecore.study.pools import Job, JobLostError, Pool, PoolOptions, RunningJob, ThreadedPool, run_job

_JOBS = 100
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 600.0

_at_least_0: Any = attrs.validators.ge(0)
_at_least_1: Any = attrs.validators.ge(1)


@attrs.frozen
class SlurmOptions:
    """Options of the Slurm pool, given as ``--on-set KEY=VALUE``.

    Attributes:
        cluster: 'slurm'; or 'local', which tries the same on this machine without Slurm.
        partition: partition of the cluster; None for the cluster's default, here and in the next three.
        account: account that is charged.
        qos: quality of service.
        constraint: constraint on the nodes.
        time: minutes until Slurm ends a job and puts it into the queue again, where its trial continues.
        requeues: how often that may happen to a trial; being preempted is not counted.
        cpus: CPUs of each trial.
        gpus: GPUs of each trial.
        memory: memory of each trial in GB; None for the cluster's default.
    """

    cluster: Literal["slurm", "local"] = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: int = attrs.field(default=60, validator=_at_least_1)
    requeues: int = attrs.field(default=24, validator=_at_least_0)
    cpus: int = attrs.field(default=1, validator=_at_least_1)
    gpus: int = attrs.field(default=0, validator=_at_least_0)
    memory: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))


def slurm_pool(options: PoolOptions) -> Pool:
    """Create a pool that runs trials through Slurm.

    Args:
        options: ``jobs`` defaults to 100, without Slurm to the number of cores; the others are :class:`SlurmOptions`.

    Raises:
        InputError: this machine has no Slurm, or an option is not valid.
        MissingPackageError: submitit is not installed.
    """
    given = {key: toml_value(value) for key, value in options.options.items()}
    slurm_options = structure(given, SlurmOptions, "--on-set")
    submitit = _submitit()
    if slurm_options.cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
        raise InputError("this machine has no Slurm: no program srun; to try a study without: --on-set cluster=local")
    jobs = {"slurm": _JOBS, "local": os.cpu_count() or 1}
    submit = partial(_submit, submitit, slurm_options, threading.Lock())
    return ThreadedPool(options.jobs or jobs[slurm_options.cluster], submit)


@attrs.frozen
class _Task:
    """The callable that submitit runs in a Slurm job, and again in the next one if Slurm takes the machine back."""

    job: Job
    folder: Path

    def __call__(self) -> int:
        status = run_job(self.job, self.folder)
        if status == -signal.SIGTERM:
            # Slurm takes the machine back and is about to signal how; the trial has not ended yet
            time.sleep(_GRACE_SECONDS)
        return status

    def checkpoint(self) -> Any:
        """Return what the next Slurm job calls: the same task, which continues the run."""
        return _submitit().helpers.DelayedSubmission(self)


@attrs.frozen(eq=False)
class _SubmittedJob(RunningJob):
    """A job in Slurm's queue.

    Attributes:
        job: submitit's job.
        query_lock: lets one thread at a time query Slurm, which answers for all jobs.
        is_terminated: set when the job was ended early.
    """

    job: Any
    query_lock: threading.Lock
    is_terminated: threading.Event = attrs.field(factory=threading.Event)

    def wait(self) -> int:
        while not self._is_done():
            if self.is_terminated.wait(_POLL_SECONDS):
                return -1
        try:
            status: int = self.job.result()
        except RuntimeError as error:
            raise JobLostError(f"the job {self.job.job_id} was lost: {error}") from error
        return status

    def terminate(self) -> None:
        self.job.cancel(check=False)
        self.is_terminated.set()

    def _is_done(self) -> bool:
        with self.query_lock:
            return bool(self.job.done())


def _submitit() -> Any:
    # by default it logs to standard output
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    require("submitit", extra="slurm", purpose="`--on slurm`")
    import submitit

    return submitit


def _submit(submitit: Any, options: SlurmOptions, query_lock: threading.Lock, job: Job) -> _SubmittedJob:
    # next to the log, where all machines see it; a folder for each job, because process numbers are reused
    folder = job.log.parent / "submitit" / job.name
    requeues = {f"{options.cluster}_max_num_timeout": options.requeues}
    executor = submitit.AutoExecutor(folder, cluster=options.cluster, **requeues)
    executor.update_parameters(name=job.name, **_parameters(options))
    try:
        return _SubmittedJob(executor.submit(_Task(job, Path.cwd())), query_lock)
    except (RuntimeError, OSError) as error:
        raise JobLostError(f"the job could not be submitted: {error}") from error


def _parameters(options: SlurmOptions) -> dict[str, Any]:
    """Return the options under submitit's names; submitit ignores those that are None."""
    return {
        "timeout_min": options.time,
        "cpus_per_task": options.cpus,
        "gpus_per_node": options.gpus or None,
        "mem_gb": options.memory,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_constraint": options.constraint,
        # since Slurm 22.05, srun does not inherit it from sbatch
        "slurm_srun_args": ["--cpus-per-task", str(options.cpus)],
    }
