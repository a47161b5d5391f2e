"""The CPU backend: training whose cost follows the weights that exist."""

from sparsecore_cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
