"""The JAX backend: experiments on JAX's devices, and ``sparsify`` for a user's own parameters and optimizer.

JAX itself is imported when a backend is created, so that importing this package takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsecore.extras import require

require("jax", extra="jax", purpose="the backend 'jax'")

from sparsecore_jax.arrays import JaxArray, JaxArrays
from sparsecore_jax.experiment.backend import JaxBackend

if TYPE_CHECKING:
    from sparsecore_jax.sparse_training.sparsify import Sparsified, sparsify
    from sparsecore_jax.sparse_training.training import SparseTraining

__all__ = ["JaxArray", "JaxArrays", "JaxBackend", "SparseTraining", "Sparsified", "sparsify"]

_OF_SPARSIFY = {"sparsify": "sparsify", "Sparsified": "sparsify", "SparseTraining": "training"}
"""The modules of names that are imported when they are asked for, since they need optax and JAX."""


def __getattr__(name: str) -> Any:
    if name not in _OF_SPARSIFY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("optax", extra="jax", purpose="sparsecore_jax.sparsify")
    return getattr(import_module(f"{__name__}.sparse_training.{_OF_SPARSIFY[name]}"), name)
