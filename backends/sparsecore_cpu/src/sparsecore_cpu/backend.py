"""The plugin: a backend with C++ kernels for sparse weights."""

import os
from typing import TYPE_CHECKING, ClassVar

import attrs

from sparsecore.errors import InputError
from sparsecore.host.arrays import NumpyArrays
from sparsecore.learning.protocols import Learner, Task
from sparsecore.learning.ranks import SingleProcess

if TYPE_CHECKING:
    from sparsecore_cpu.runtime import Runtime


@attrs.frozen(eq=False)
class CpuBackend:
    """Trains on the CPU with kernels that touch only active weights.

    Attributes:
        threads: how many threads compute, at most 1024; 0 for as many as this process may use. Results do not depend on
            it.
        activations: the dtype that activations of images are stored as: float32, or bfloat16, which takes half the
            memory and less time. All arithmetic is in float32.

    Raises:
        InputError: there cannot be so many threads, or activations are not stored as this dtype.
    """

    corrects_young_weights: ClassVar[bool] = True

    threads: int = 0
    activations: str = "float32"

    def __attrs_post_init__(self) -> None:
        if self.threads < 0:
            raise InputError(f"the cpu backend takes 1 or more threads, or 0 for all; given {self.threads}")
        if self.threads > _MOST_THREADS:
            raise InputError(f"the cpu backend takes at most {_MOST_THREADS} threads; given {self.threads}")
        if self.activations not in _STORED:
            raise InputError(
                f"the cpu backend stores activations as {' or '.join(_STORED)}; given {self.activations!r}"
            )

    @property
    def dtype(self) -> str:
        """The dtype of values."""
        return "float32"

    @property
    def arrays(self) -> NumpyArrays:
        """The array operations of the engine, on NumPy arrays."""
        return NumpyArrays()

    @property
    def ranks(self) -> SingleProcess:
        """One process."""
        return SingleProcess()

    def learner(self, task: Task) -> Learner:
        """A network ready to train.

        Args:
            task: the network, the data and the initial values, (N,) in float32.

        Raises:
            InputError: the environment variable ``SPARSECORE_CPU_KERNELS`` names kernels that this processor does not
                have.
        """
        from sparsecore.host.learner import HostLearner
        from sparsecore_cpu.operations import CpuComputation

        return HostLearner(task, self.dtype, CpuComputation(self.runtime()))

    def runtime(self) -> "Runtime":
        """A new runtime: kernels, threads and memory.

        Raises:
            InputError: the environment variable ``SPARSECORE_CPU_KERNELS`` names kernels that this processor does not
                have.
        """
        from sparsecore_cpu.runtime import Runtime

        return Runtime.of(self.threads or _available(), _STORED[self.activations])


_MOST_THREADS = 1024
"""The kernels' own bound, which is known here without loading them."""

_STORED = {"float32": "float32", "bfloat16": "uint16"}
"""Names of types, as NumPy knows them."""


def _available() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return min(_MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)
