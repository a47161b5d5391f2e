"""Trials as processes of this machine, side by side."""

import os
import subprocess
from collections.abc import Mapping
from functools import partial

import attrs

from sparsecore.errors import InputError
from sparsecore.study.pools import Job, Pool, PoolOptions
from sparsecore.study.scheduler import ThreadedPool

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def local_pool(means: PoolOptions) -> Pool:
    """Each process gets its share of the processor's cores as threads; as many jobs as cores, where none are given."""
    if means.options:
        raise InputError(f"the local pool has no options; given {', '.join(means.options)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = means.jobs or cores
    share = str(max(1, cores // jobs))
    # whoever sets these knows better
    return ThreadedPool(jobs, partial(_started, {**dict.fromkeys(_THREADS, share), **os.environ}))


@attrs.frozen(eq=False)
class _Process:
    """See :class:`sparsecore.study.scheduler.RunningJob`."""

    process: "subprocess.Popen[bytes]"

    def wait(self) -> int:
        with self.process:  # whose pipe is closed at its end
            return self.process.wait()

    def end(self) -> None:
        self.process.terminate()


def _started(environment: Mapping[str, str], job: Job) -> _Process:
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the study, which then ends its trials
        )
    return _Process(process)
