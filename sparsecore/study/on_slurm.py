"""Trials as jobs of a Slurm cluster, through submitit."""

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
from sparsecore.study.pools import Job, Pool, PoolOptions, run_job
from sparsecore.study.scheduler import JobLostError, ThreadedPool

_JOBS = 100
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_OF_GRACE = 600.0

_at_least_0: Any = attrs.validators.ge(0)
_at_least_1: Any = attrs.validators.ge(1)


@attrs.frozen
class SlurmOptions:
    """What a trial gets, and where.

    Attributes:
        cluster: 'slurm', or 'local' to try the same on this machine, without Slurm.
        partition: of the cluster; its own default, if None, as for the next three.
        account: likewise.
        qos: likewise.
        constraint: on the nodes.
        time: minutes until a job is ended and put into the queue again, where its trial goes on.
        requeues: how often that may happen to a trial; being preempted is free.
        cpus: of a trial.
        gpus: of a trial.
        memory: of a trial, in GB; the cluster's own default, if None.
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


def slurm_pool(means: PoolOptions) -> Pool:
    """At most 100 jobs in the queue, or one a core without Slurm, where no number is given.

    Raises:
        InputError: submitit is not installed, or there is no Slurm here.
    """
    options = structure({key: toml_value(value) for key, value in means.options.items()}, SlurmOptions, "--on-set")
    submitit = _submitit()
    if options.cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
        raise InputError("this machine has no Slurm: no program srun; to try a study without: --on-set cluster=local")
    jobs = {"slurm": _JOBS, "local": os.cpu_count() or 1}
    return ThreadedPool(means.jobs or jobs[options.cluster], partial(_submitted, submitit, options, threading.Lock()))


@attrs.frozen
class _Trial:
    """What submitit calls in Slurm's job; called again in another, where Slurm wants the machine back."""

    job: Job
    folder: Path

    def __call__(self) -> int:
        status = run_job(self.job, self.folder)
        if status == -signal.SIGTERM:
            # Slurm wants the machine back, and is about to say how: that is not yet the end of the trial
            time.sleep(_SECONDS_OF_GRACE)
        return status

    def checkpoint(self) -> Any:
        """What to call then: the same, which goes on with the run that was begun."""
        return _submitit().helpers.DelayedSubmission(self)


@attrs.frozen(eq=False)
class _Submitted:
    """See :class:`sparsecore.study.scheduler.RunningJob`.

    Attributes:
        job: submitit's.
        looking: one thread at a time asks Slurm, for all jobs.
        is_ended: early.
    """

    job: Any
    looking: threading.Lock
    is_ended: threading.Event = attrs.field(factory=threading.Event)

    def wait(self) -> int:
        while not self._is_done():
            if self.is_ended.wait(_SECONDS_BETWEEN_LOOKS):
                return -1
        try:
            status: int = self.job.result()
        except RuntimeError as error:
            raise JobLostError(f"the job {self.job.job_id} was lost: {error}") from error
        return status

    def end(self) -> None:
        self.job.cancel(check=False)
        self.is_ended.set()

    def _is_done(self) -> bool:
        with self.looking:
            return bool(self.job.done())


def _submitit() -> Any:
    # it would log to standard output
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    require("submitit", extra="slurm", purpose="`--on slurm`")
    import submitit

    return submitit


def _submitted(submitit: Any, options: SlurmOptions, looking: threading.Lock, job: Job) -> _Submitted:
    # beside the log, as all machines see it; a folder each, because process numbers come again
    folder = job.log.parent / "submitit" / job.name
    requeues = {f"{options.cluster}_max_num_timeout": options.requeues}
    executor = submitit.AutoExecutor(folder, cluster=options.cluster, **requeues)
    executor.update_parameters(name=job.name, **_parameters(options))
    try:
        return _Submitted(executor.submit(_Trial(job, Path.cwd())), looking)
    except (RuntimeError, OSError) as error:
        raise JobLostError(f"the job could not be submitted: {error}") from error


def _parameters(options: SlurmOptions) -> dict[str, Any]:
    """The options as submitit names them; it leaves out those that are None."""
    return {
        "timeout_min": options.time,
        "cpus_per_task": options.cpus,
        "gpus_per_node": options.gpus or None,
        "mem_gb": options.memory,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_constraint": options.constraint,
        # since Slurm 22.05 srun does not take it over from sbatch
        "slurm_srun_args": ["--cpus-per-task", str(options.cpus)],
    }
