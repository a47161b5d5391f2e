"""Sparse training with dynamic parameter reallocation."""
