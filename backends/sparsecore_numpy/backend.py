"""The plugin: a backend that needs nothing but NumPy."""

from typing import ClassVar

import attrs

from sparsecore.errors import InputError
from sparsecore.host.arrays import NumpyArrays
from sparsecore.learning.protocols import Learner, Task
from sparsecore.learning.ranks import SingleProcess

_DTYPES = ("float32", "float64")


@attrs.frozen(eq=False)
class NumpyBackend:
    """Trains on the CPU with nothing but NumPy.

    Attributes:
        dtype: the dtype of values and activations: float32 or float64.

    Raises:
        InputError: it is another dtype.
    """

    corrects_young_weights: ClassVar[bool] = True

    dtype: str = "float32"

    def __attrs_post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise InputError(f"the NumPy backend computes in {' or '.join(_DTYPES)}; given {self.dtype!r}")

    @property
    def arrays(self) -> NumpyArrays:
        """The array operations of the engine."""
        return NumpyArrays()

    @property
    def ranks(self) -> SingleProcess:
        """One process."""
        return SingleProcess()

    def learner(self, task: Task) -> Learner:
        """A network ready to train.

        Args:
            task: the network, the data and the initial values, (N,) in this backend's dtype.

        Raises:
            MissingPackageError: threadpoolctl is not installed.
        """
        from sparsecore.host.buffers import BufferPool
        from sparsecore.host.learner import HostLearner
        from sparsecore_numpy.operations import NumpyComputation
        from sparsecore_numpy.workspace import Workspace, worker_pool

        return HostLearner(task, self.dtype, NumpyComputation(Workspace(BufferPool(self.dtype), worker_pool())))
