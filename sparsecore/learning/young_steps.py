"""Adam's steps of weights that have grown recently: tables by age, and how ages follow their weights."""

import math
from functools import lru_cache

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.young_weights import YoungWeights

_NEGLIGIBLE = 1e-6
"""The relative change of a step from which on a weight is no longer young."""


@attrs.frozen(eq=False)
class StepTables:
    """What replaces Adam's bias corrections for a weight, by the number of its own steps; the entry 0 is not used.

    The step is −η · ``rate`` · m / (√s / ``root`` + ε), where m and s are the moments after their update.

    Attributes:
        rate: (size,), float64: the damping, divided by 1 − β₁ᵃ where own steps count.
        root: (size,), float64: √(1 − β₂ᵃ), or 1 where own steps do not count.
    """

    rate: NDArray[np.float64]
    root: NDArray[np.float64]


@lru_cache(maxsize=8)
def step_tables(young: YoungWeights, betas: tuple[float, float], size: int) -> StepTables:
    """Return the tables of young weights.

    Args:
        young: what they get.
        betas: β₁ and β₂.
        size: above the largest age.
    """
    ages = np.arange(1, size)
    rate, root = young.damping(ages), np.ones(size - 1)
    if young.own_steps:
        first, second = (-np.expm1(ages * _logarithm(beta)) for beta in betas)
        rate, root = rate / first, np.sqrt(second)
    return StepTables(*(np.concatenate([np.ones(1), one]) for one in (rate, root)))


def table_size(oldest: int) -> int:
    """Return a size for tables up to an age, a power of two so that few are made."""
    return 1 << (oldest + 1).bit_length()


def maturity(young: YoungWeights, betas: tuple[float, float]) -> int:
    """Return the age from which on a weight takes the optimizer's own steps.

    Args:
        young: what young weights get.
        betas: β₁ and β₂.

    Returns:
        The end of the warm-up, and not before the corrections by own steps differ from 1 by less than a millionth.
    """
    if not young.own_steps:
        return young.warm_up
    return max(young.warm_up, *(math.ceil(math.log(_NEGLIGIBLE) / _logarithm(beta)) for beta in betas))


def _logarithm(beta: float) -> float:
    return math.log(max(beta, 1e-300))
