"""The devices that an experiment runs on, and where its arrays are put on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import attrs
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsecore.errors import InputError

_AXIS = "batch"


@contextmanager
def with_64_bits() -> Iterator[None]:
    """Let JAX keep numbers of 64 bits: float64, sums in float64, and positions beyond 32 bits.

    Outside of it, and in other threads, JAX stays as the process has configured it.
    """
    with jax.enable_x64(True):
        yield


@attrs.frozen
class Placement:
    """One or several devices: each has all parameters, and a part of every batch.

    Attributes:
        devices: of JAX, of one platform.
    """

    devices: tuple[Any, ...]

    @classmethod
    def on(cls, name: str) -> "Placement":
        """Return the placement on the devices that a name stands for.

        Args:
            name: 'auto' for all devices of JAX's default platform; a platform such as 'cpu' or 'gpu' for all of its
                devices; or a single one, such as 'cpu:1'.

        Raises:
            InputError: JAX has no such device; the message lists those that it has.
        """
        if name == "auto":
            return cls(tuple(jax.local_devices()))
        platform, colon, number = name.partition(":")
        found = _devices(platform)
        chosen = found if not colon else [one for one in found if number == str(one.id)]
        if not chosen:
            known = {str(one.platform): one for one in jax.local_devices()}
            there = [f"{one.platform}:{one.id}" for each in sorted({"cpu", *known}) for one in _devices(each)]
            raise InputError(
                f"JAX has no device {name!r}; a device is 'auto', a platform or one of its devices, "
                f"and JAX has: {', '.join(there)}"
            )
        return cls(tuple(chosen))

    @cached_property
    def everywhere(self) -> NamedSharding:
        """The sharding of arrays of which each device has a copy."""
        return NamedSharding(self._mesh, PartitionSpec())

    def put(self, array: Any) -> "jax.Array":
        """Return an array of which each device has a copy.

        Args:
            array: of NumPy or JAX; the result shares no memory with an array that may still be written to.
        """
        return jax.device_put(array, self.everywhere)

    def share(self, array: Any) -> "jax.Array":
        """Return an array whose first axis is divided among the devices.

        Args:
            array: of NumPy, with one entry or row for each example. Where its examples cannot be divided equally,
                each device has all of them, and computes them all.
        """
        divided = len(array) % len(self.devices) == 0
        return jax.device_put(array, NamedSharding(self._mesh, PartitionSpec(_AXIS)) if divided else self.everywhere)

    @cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (_AXIS,))


def _devices(platform: str) -> list[Any]:
    try:
        return list(jax.local_devices(backend=platform))
    except RuntimeError:  # there is no such platform, or none of its devices
        return []
