"""The global generators of torch, NumPy and Python, seeded by the engine's random numbers while other code draws."""

import random as python_random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sparsecore.engine.randomness import Randomness


@contextmanager
def drawing(random: Randomness) -> Iterator[None]:
    """Let code that draws from global generators draw numbers that depend on the keys of a node alone.

    Args:
        random: the node. On leaving, the generators of the host are as they were before.
    """
    with drawing_by(int(random.generator().integers(2**63))):
        yield


@contextmanager
def drawing_by(seed: int) -> Iterator[None]:
    """Let code that draws from global generators draw numbers that depend on a seed alone.

    Args:
        seed: at least 0, below 2⁶³; drawn from a node of the engine's random numbers.
    """
    of_python, of_numpy = python_random.getstate(), np.random.get_state()  # noqa: NPY002  others draw from it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        python_random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            python_random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
