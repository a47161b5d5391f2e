"""The NumPy backend: the reference for every other one."""

from sparsecore_numpy.arrays import NumpyArrays

__all__ = ["NumpyArrays"]
