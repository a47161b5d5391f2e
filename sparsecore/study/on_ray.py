"""Trials as tasks of a Ray cluster: an existing one, or one of this machine alone."""

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
from sparsecore.study.pools import Pool, PoolOptions, run_job
from sparsecore.study.scheduler import JobLostError, ThreadedPool

_BYTES_OF_OBJECTS = 2**27
"""Nothing but exit statuses goes through Ray's memory, of which it would take a third of the machine's."""

_SECONDS_TO_ANSWER = 10.0
_QUIET: Mapping[str, Any] = MappingProxyType({"logging_level": logging.ERROR, "log_to_driver": False})
"""Standard output is the study's, and trials have logs of their own."""


def _share_or_whole(_: object, attribute: "attrs.Attribute[float]", amount: float) -> None:
    if amount > 1 and amount % 1:
        raise InputError(f"Ray gives a part of one or whole ones; given {attribute.name} = {amount:g}")


@attrs.frozen
class RayOptions:
    """What a trial gets, and where.

    Attributes:
        address: of an existing cluster, as ``ray.init`` takes it ('auto' for the one of this machine); without one,
            Ray is started on this machine and ends with the study.
        cpus: of a trial.
        gpus: of a trial; 0.25 lets four trials share one.
    """

    address: str | None = None
    cpus: float = attrs.field(default=1.0, validator=[attrs.validators.gt(0), _share_or_whole])
    gpus: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), _share_or_whole])

    def room(self, resources: Mapping[str, float]) -> int:
        """How many trials at a time such machines have room for."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(resources.get(name, 0) / amount) for name, amount in wanted.items() if amount)


def ray_pool(means: PoolOptions) -> Pool:
    """As many jobs as there is room for, where no number is given.

    Raises:
        InputError: Ray is not installed or does not start, there is no cluster at the address, or there is no room for
            a trial; a cluster that may grow, because a number of jobs is given, is joined all the same.
    """
    options = structure({key: toml_value(value) for key, value in means.options.items()}, RayOptions, "--on-set")
    ray = _ray()
    if options.address:
        _join(ray, options.address)
    else:
        _start(ray)
    there = ray.cluster_resources()
    if not options.room(there) and not (options.address and means.jobs):
        raise InputError(
            f"a trial is to get {options.cpus:g} CPUs and {options.gpus:g} GPUs; Ray has {there.get('CPU', 0):g} and "
            f"{there.get('GPU', 0):g} (for a cluster that grows, give --jobs)"
        )
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=0)(run_job)
    return ThreadedPool(means.jobs or options.room(there), lambda job: _Task(ray, task.remote(job, Path.cwd())))


@attrs.frozen(eq=False)
class _Task:
    """See :class:`sparsecore.study.scheduler.RunningJob`."""

    ray: Any
    reference: Any

    def wait(self) -> int:
        try:
            status: int = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            raise JobLostError(f"Ray lost this trial: {error}") from error
        return status

    def end(self) -> None:
        # less than force would wait for the trial to end by itself
        self.ray.cancel(self.reference, force=True)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a study is nobody else's business
    require("ray", extra="ray", purpose="`--on ray`")
    import ray

    return ray


def _start(ray: Any) -> None:
    """Start Ray on this machine; it ends with this process."""
    # otherwise Ray writes one into the home folder
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_BYTES_OF_OBJECTS,
            **_QUIET,
        )
    except Exception as error:  # which is all that Ray says of its kind
        raise InputError(f"Ray does not start on this machine: {error}") from error


def _join(ray: Any, address: str) -> None:
    _check_answers(address)
    try:
        ray.init(address=address, **_QUIET)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"there is no Ray cluster to be had at {address!r}: {error}") from error


def _check_answers(address: str) -> None:
    """Ray would try for minutes, and then end the process."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address!r}: {error}") from error
