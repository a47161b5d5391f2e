"""Experiments on JAX: ``--backend jax``."""
