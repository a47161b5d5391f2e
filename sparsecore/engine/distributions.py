"""Start distributions: how many weights each tensor has at the start, at a given sparsity.

All have the same number of weights together, that of the uniform distribution: Σ_i ⌊(1-s)·D_i⌋, at least one a tensor.
A number of weights may also be given as a budget, which all then spend exactly.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from sparsecore.engine.arrays import Counts
from sparsecore.engine.growth import shares
from sparsecore.engine.schedules import as_written
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, unknown

Distribution = Callable[[Layout, float], Counts]
StartDistribution = Literal["uniform", "er", "erk"]
"""The names of the start distributions."""


def check_sparsity(sparsity: float) -> float:
    """Return the sparsity.

    Raises:
        InputError: it is not in [0, 1).
    """
    if not _is_share(sparsity):
        raise InputError(f"sparsity must lie in [0, 1): at least 0 and below 1; given {sparsity!r}")
    return sparsity


def _is_share(given: Any) -> bool:
    try:
        return not isinstance(given, bool | str) and bool(0.0 <= given < 1.0)
    except (TypeError, ValueError, RuntimeError):  # no number, or many
        return False


def check_initial_sparsity(initial: float, final: float) -> None:
    """Check the sparsities of a run that becomes sparser.

    Args:
        initial: the sparsity at the start, in [0, 1).
        final: the sparsity that the run is to end with, in [0, 1).

    Raises:
        InputError: it would start sparser than it is to end.
    """
    if initial > final:
        raise InputError(f"a run that becomes sparser starts at most at its sparsity, {final}; given {initial}")


def uniform(layout: Layout, sparsity: float) -> Counts:
    """Return ⌊(1-s)·D_i⌋ weights for every tensor, at least one (Mostafa & Wang 2018).

    Args:
        layout: the tensors.
        sparsity: s, in [0, 1), taken as the decimal that is written.

    Returns:
        int64, the number of weights of each tensor.

    Raises:
        InputError: the sparsity is not in [0, 1).
    """
    density = 1 - as_written(check_sparsity(sparsity))
    return np.array([max(1, int(size * density)) for size in layout.sizes], np.int64)


def erdos_renyi(layout: Layout, sparsity: float) -> Counts:
    """Return counts with density ∝ (n+m)/(n·m) for n inputs and m outputs, a kernel as one (ER; Mocanu et al. 2018).

    Args:
        layout: the tensors.
        sparsity: s, in [0, 1).

    Returns:
        int64, the number of weights of each tensor.
    """
    return spent(budget_at(layout, sparsity), layout, _er_shares(layout))


def erdos_renyi_kernel(layout: Layout, sparsity: float) -> Counts:
    """Return counts with density ∝ (Σ dims)/(Π dims), at most full tensors (ERK; Evci et al. 2020).

    Args:
        layout: the tensors.
        sparsity: s, in [0, 1).

    Returns:
        int64, the number of weights of each tensor.
    """
    return spent(budget_at(layout, sparsity), layout, _erk_shares(layout))


DISTRIBUTIONS: Mapping[str, Distribution] = MappingProxyType(
    {"uniform": uniform, "er": erdos_renyi, "erk": erdos_renyi_kernel}
)


def distribution(name: str) -> Distribution:
    """Return the start distribution 'uniform', 'er' or 'erk'.

    Raises:
        InputError: there is none of this name; the message lists the known ones.
    """
    try:
        return DISTRIBUTIONS[name]
    except KeyError:
        raise InputError(unknown("start distribution", name, DISTRIBUTIONS)) from None


def check_start_distribution(_: object, __: object, name: str) -> None:
    """Validate the name of a start distribution; an attrs validator for an option of the type StartDistribution.

    Args:
        name: the option's value.

    Raises:
        InputError: there is none of this name; the message lists the known ones.
    """
    distribution(name)


def budget_at(layout: Layout, sparsity: float) -> int:
    """Return the number of weights that all distributions have together at a sparsity.

    Args:
        layout: the tensors.
        sparsity: s, in [0, 1).

    Raises:
        InputError: the sparsity is not in [0, 1).
    """
    return int(uniform(layout, sparsity).sum())


def spent(budget: int, layout: Layout, wanted: Sequence[int] | Counts) -> Counts:
    """Share a number of weights out over tensors: at least one each, and at most all positions.

    Args:
        budget: the number of weights.
        layout: the tensors.
        wanted: whole numbers of at least 0 in whose proportion the weights are shared out, one a tensor. What a full
            tensor cannot take goes to the others.

    Returns:
        int64, ``budget`` together.

    Raises:
        InputError: the budget is no whole number, less than one weight a tensor, or more than the positions.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise InputError(f"a budget is a whole number of weights; given {budget!r}")
    if not len(layout) <= budget <= layout.size:
        raise InputError(
            f"a budget is from {len(layout):,}, one weight for each sparse tensor, to {layout.size:,}, all positions; "
            f"given {budget:,}"
        )
    sizes = np.asarray(layout.sizes, np.int64)
    single = np.zeros(len(sizes), np.bool_)
    while True:
        weights = [0 if alone else number for alone, number in zip(single, wanted, strict=True)]
        counts = shares(int(budget) - int(single.sum()), weights, np.where(single, 0, sizes))
        empty = (counts == 0) & ~single
        if not empty.any():
            return counts + single
        # the weights that these get may leave none for another tensor
        single |= empty


def equal_cost_shares(costs: Sequence[Fraction]) -> list[int]:
    """Return the numbers for :func:`spent` that give every tensor the same cost, as far as it is not full.

    Args:
        costs: of one weight of each tensor, such as the multiplications that it takes part in; above 0.

    Returns:
        Whole numbers in exactly the proportion 1/cost.
    """
    inverse = [1 / cost for cost in costs]
    common = math.lcm(*(one.denominator for one in inverse))
    return [int(one * common) for one in inverse]


def _er_shares(layout: Layout) -> list[int]:
    return [_channels(shape) * _kernel(shape) for shape in layout.shapes]


def _erk_shares(layout: Layout) -> list[int]:
    return [sum(shape) for shape in layout.shapes]


SHARES: Mapping[str, Callable[[Layout], list[int]]] = MappingProxyType(
    {"uniform": lambda layout: list(layout.sizes), "er": _er_shares, "erk": _erk_shares}
)
"""The numbers in whose proportion each distribution shares out a budget, by its name."""


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] + shape[1] if len(shape) > 1 else 1 + shape[0]


def _kernel(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[2:], dtype=np.int64))
