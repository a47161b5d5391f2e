"""Training in host memory: what the NumPy and the CPU backend share."""
