"""The plugin ``--backend jax``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import attrs

from sparsecore.errors import InputError
from sparsecore.learning.protocols import Learner, Task
from sparsecore_jax.arrays import JaxArrays

_DTYPES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"float32": ("float32", "float32"), "float64": ("float64", "float64"), "bfloat16": ("float32", "bfloat16")}
)
"""The dtypes of parameters and of activations, by the setting ``dtype``."""


def _check_dtype(_: object, __: object, dtype: str) -> None:
    if dtype not in _DTYPES:
        raise InputError(f"the JAX backend computes in {', '.join(_DTYPES)}; given {dtype!r}")


def _check_device(_: object, __: object, device: str) -> None:
    if device != "auto":  # which every machine has, so that JAX need not look for its devices before it trains
        from sparsecore_jax.experiment.devices import Placement

        Placement.on(device)


@attrs.frozen(eq=False)
class JaxBackend:
    """Trains with JAX on one or several devices; a plugin of :class:`sparsecore.learning.protocols.Backend`.

    Attributes:
        device: 'auto' for all devices of JAX's default platform, a platform such as 'cpu' or 'gpu' for all of its
            devices, or a single one such as 'cpu:1'. Several devices share each batch.
        dtype: 'float32', 'float64', or 'bfloat16': parameters in float32 and activations in bfloat16. As an attribute
            of the backend it is the dtype of values.
    """

    corrects_young_weights: ClassVar[bool] = True

    device: str = attrs.field(default="auto", validator=_check_device)
    _dtype: str = attrs.field(default="float32", validator=_check_dtype)

    @property
    def dtype(self) -> str:
        """The dtype of values, as NumPy names it."""
        return _DTYPES[self._dtype][0]

    @property
    def arrays(self) -> JaxArrays:
        """The array operations."""
        return JaxArrays()

    def learner(self, task: Task) -> Learner:
        """Make a network ready to train.

        Args:
            task: the network, its start values, the data and the optimizer.
        """
        from sparsecore_jax.experiment.devices import Placement
        from sparsecore_jax.experiment.learner import JaxLearner

        return JaxLearner(task, Placement.on(self.device), *_DTYPES[self._dtype])
