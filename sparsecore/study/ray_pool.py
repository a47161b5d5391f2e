"""The pool that runs trials as tasks of Ray, on an existing cluster or on this machine alone."""

import logging
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.toml_files import toml_value
from sparsecore.extras import require
from sparsecore.study.pools import JobLostError, Pool, PoolOptions, RunningJob, ThreadedPool, run_job

_OBJECT_STORE_BYTES = 2**27
"""Size of Ray's object store. Only exit statuses pass through it; by default Ray takes a third of the memory."""

_CONNECT_SECONDS = 10.0
_QUIET: Mapping[str, Any] = MappingProxyType({"logging_level": logging.ERROR, "log_to_driver": False})
"""Standard output belongs to the study, and trials have their own logs."""


def _check_amount(_: object, attribute: "attrs.Attribute[float]", amount: float) -> None:
    if amount > 1 and amount % 1:
        raise InputError(f"Ray allocates a fraction of one or a whole number; given {attribute.name} = {amount:g}")


@attrs.frozen
class RayOptions:
    """Options of the Ray pool, given as ``--on-set KEY=VALUE``.

    Attributes:
        address: address of an existing cluster, as ``ray.init`` takes it ('auto' for the one of this machine). If
            None, Ray is started on this machine and ends with the study.
        cpus: CPUs of each trial.
        gpus: GPUs of each trial; with 0.25, four trials share one.
    """

    address: str | None = None
    cpus: float = attrs.field(default=1.0, validator=[attrs.validators.gt(0), _check_amount])
    gpus: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), _check_amount])

    def capacity(self, resources: Mapping[str, float]) -> int:
        """Return how many trials fit on machines with these resources at the same time.

        Args:
            resources: numbers of 'CPU' and 'GPU' of the whole cluster, as ``ray.cluster_resources`` returns them; a
                missing one counts as 0.
        """
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(resources.get(name, 0) / amount) for name, amount in wanted.items() if amount)


def ray_pool(options: PoolOptions) -> Pool:
    """Create a pool that runs trials on Ray.

    Args:
        options: ``jobs`` defaults to the number of trials that fit on the cluster; the others are :class:`RayOptions`.

    Raises:
        InputError: Ray does not start, there is no cluster at the address, or no trial fits on it. A cluster that may
            still grow, for which ``jobs`` is given, is accepted.
        MissingPackageError: Ray is not installed.
    """
    ray_options = structure({key: toml_value(value) for key, value in options.options.items()}, RayOptions, "--on-set")
    ray = _ray()
    if ray_options.address:
        _connect(ray, ray_options.address)
    else:
        _start(ray)
    resources = ray.cluster_resources()
    if not ray_options.capacity(resources) and not (ray_options.address and options.jobs):
        raise InputError(
            f"each trial needs {ray_options.cpus:g} CPUs and {ray_options.gpus:g} GPUs; Ray has "
            f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g} (for a cluster that grows, give --jobs)"
        )
    task = ray.remote(num_cpus=ray_options.cpus, num_gpus=ray_options.gpus, max_retries=0)(run_job)
    jobs = options.jobs or ray_options.capacity(resources)
    return ThreadedPool(jobs, lambda job: _RunningTask(ray, task.remote(job, Path.cwd())))


@attrs.frozen(eq=False)
class _RunningTask(RunningJob):
    ray: Any
    reference: Any

    def wait(self) -> int:
        try:
            status: int = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            raise JobLostError(f"Ray lost this trial: {error}") from error
        return status

    def terminate(self) -> None:
        # without force, Ray waits for the trial to end by itself
        self.ray.cancel(self.reference, force=True)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    require("ray", extra="ray", purpose="`--on ray`")
    import ray

    return ray


def _start(ray: Any) -> None:
    """Start Ray on this machine; it ends with this process."""
    # without a token, Ray writes one into the home folder
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **_QUIET,
        )
    except Exception as error:  # Ray raises no narrower class
        raise InputError(f"Ray does not start on this machine: {error}") from error


def _connect(ray: Any, address: str) -> None:
    _check_reachable(address)
    try:
        ray.init(address=address, **_QUIET)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot connect to a Ray cluster at {address!r}: {error}") from error


def _check_reachable(address: str) -> None:
    """Raise an :class:`InputError` if nothing answers; Ray itself would try for minutes and then end the process."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address!r}: {error}") from error
