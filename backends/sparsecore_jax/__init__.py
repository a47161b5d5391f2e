"""The JAX backend: experiments on JAX's devices.

JAX itself is imported when a backend is created, so that importing this package takes no time.
"""

from sparsecore.extras import require

require("jax", extra="jax", purpose="the backend 'jax'")

from sparsecore_jax.arrays import JaxArray, JaxArrays
from sparsecore_jax.experiment.backend import JaxBackend

__all__ = ["JaxArray", "JaxArrays", "JaxBackend"]
