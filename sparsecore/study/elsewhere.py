"""A job's process on another machine, as a child of whatever Ray or Slurm started there."""

import subprocess
from pathlib import Path

from sparsecore.study.pools import Job


def run_here(job: Job, folder: Path) -> int:
    """Run the job on this machine: its exit status, negative for a signal.

    It ends with the process that calls this, however that ends; see :mod:`sparsecore.study.worker`.

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
