"""The start of an engine in the test kit, with initial values for strategies that ask for them."""

import numpy as np

from sparsecore.engine.arrays import Array
from sparsecore.engine.engine import Engine
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State


def start(engine: Engine, sparsity: float, clock: Clock = Clock()) -> State:
    """Return the engine's state before the first step.

    Args:
        engine: of any layout and backend.
        sparsity: the requested one, in [0, 1).
        clock: the time of the start.

    Returns:
        The state of a start whose initial values are standard normal and the same for every seed of the engine, so
        that another seed changes only what the strategies draw.
    """

    def values(name: str) -> Array:
        size = engine.layout.sizes[engine.layout.index(name)]
        return engine.arrays.from_numpy(Randomness(0).normal_at(np.arange(size), "initial values", name))

    return engine.start(sparsity, clock=clock, values=values)
