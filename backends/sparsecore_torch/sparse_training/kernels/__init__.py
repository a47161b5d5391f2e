"""Layers of a user's model on the CPU by the sparse kernels of ``sparsecore_cpu``."""
