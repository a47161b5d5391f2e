"""The NumPy backend: the reference for every other one."""

from sparsecore.host.arrays import NumpyArrays
from sparsecore_numpy.backend import NumpyBackend

__all__ = ["NumpyArrays", "NumpyBackend"]
