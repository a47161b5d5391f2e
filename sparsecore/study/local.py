"""Trials as processes of this machine, side by side."""

import os
import subprocess
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from sparsecore.errors import InputError
from sparsecore.study.pools import Job, Means

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SECONDS_TO_END = 10.0


class LocalPool:
    """See :class:`sparsecore.study.pools.Pool`. Each process gets its share of the processor's cores as threads."""

    def __init__(self, means: Means) -> None:
        """As many jobs as cores, where none are given."""
        if means.options:
            raise InputError(f"the local pool has no options; given {', '.join(means.options)}")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.jobs = means.jobs or cores
        share = str(max(1, cores // self.jobs))
        # whoever sets these knows better
        self._environment = {**dict.fromkeys(_THREADS, share), **os.environ}
        self._threads = ThreadPoolExecutor(self.jobs)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def submit(self, job: Job) -> "Future[int]":
        """See :class:`sparsecore.study.pools.Pool`."""
        return self._threads.submit(self._run, job)

    def stop(self) -> None:
        """See :class:`sparsecore.study.pools.Pool`."""
        with self._lock:
            self._is_stopped = True
            running = tuple(self._running)
        for process in running:
            process.terminate()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> int:
        with job.log.open("ab") as log:
            with self._lock:
                if self._is_stopped:
                    return -1
                process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is for the study, which then ends its trials
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
