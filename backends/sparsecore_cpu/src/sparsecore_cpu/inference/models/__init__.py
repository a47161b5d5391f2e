"""Prediction with anybody's network: a program of operations that was taken from a PyTorch module."""
