"""The start of an engine in the test kit, with initial values for strategies that ask for them."""

import numpy as np

from sparsecore.engine.arrays import Array, DenseValues
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
    return engine.start(sparsity, clock=clock, values=normal_values(engine))


def normal_values(engine: Engine, dtype: str = "float64") -> DenseValues:
    """Return standard normal initial values of all positions, which are always the same.

    Args:
        engine: of any layout and backend.
        dtype: of the values, by NumPy's name.

    Returns:
        A function from a tensor's name to (D_i,) values on the backend.
    """

    def values(name: str) -> Array:
        size = engine.layout.sizes[engine.layout.index(name)]
        drawn = Randomness(0).normal_at(np.arange(size), "initial values", name)
        return engine.arrays.from_numpy(drawn.astype(dtype))

    return values
