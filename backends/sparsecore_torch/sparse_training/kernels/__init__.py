"""Layers of somebody's own model on the CPU through the kernels of ``sparsecore_cpu``."""
